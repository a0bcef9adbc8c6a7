"""What the shipped model says does not hang on how attention is computed, or on int8 pages."""

from pathlib import Path

import pytest

from examples.tiny.check import judge
from services.attention_worker import native_library
from tests.support.processes import ROOT, SHIPPED, run

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.timeout(180),
    pytest.mark.skipif(native_library.load() is None, reason="the kernels are not built"),
]

BATCH = ROOT / "examples/tiny/batch.jsonl"


def answers(folder: Path, kv_dtype: str) -> list[str | None]:
    """Run the shipped batch, which is greedy, to its end."""
    output = folder / f"{kv_dtype}.jsonl"
    code, _, error = run(
        folder,
        *("run-batch", "-i", BATCH, "-o", output, "--model", SHIPPED),
        *("--kv-cache-dtype", kv_dtype),
    )
    assert code == 0, error
    return [verdict.answer for verdict in judge(BATCH, output)]


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> list[str | None]:
    """Take the answers of the native kernel on bf16 pages."""
    return answers(tmp_path_factory.mktemp("native"), "bf16")


@pytest.mark.parametrize(("kernel", "kv_dtype"), [("auto", "int8"), ("torch", "bf16")])
def test_greedy_answers_are_those_of_the_native_kernel_on_bf16_pages(
    expected: list[str | None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kernel: str,
    kv_dtype: str,
) -> None:
    monkeypatch.setenv("GLINTHAWK_ATTENTION_WORKER__KERNEL", kernel)

    found = answers(tmp_path, kv_dtype)

    assert found == expected
