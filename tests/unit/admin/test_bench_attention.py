"""`glinthawk bench attention`: what it computes from, and that it can be read by scripts."""

import json
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest

from common.errors import SettingsError
from services.admin.bench import attention, attention_work
from services.admin.bench.attention import bench_attention
from services.admin.bench.attention_work import AttentionWork
from services.admin.bench.vllm_attention import vllm_ms
from services.attention_worker.machine import Machine

WORK = AttentionWork(
    phase="decode",
    batch=2,
    context=40,
    chunk=16,
    q_heads=4,
    kv_heads=2,
    head_dim=16,
    kv_dtype="bf16",
    page_size=16,
)


def test_the_caches_fill_more_memory_than_a_processors_cache() -> None:
    work = replace(WORK, batch=32, context=1024)

    assert work.num_layers * work.kv_bytes >= 2**30


def test_operations_are_those_of_the_keys_that_each_row_sees() -> None:
    work = replace(WORK, phase="prefill", context=3, chunk=2)

    assert work.operations == 4 * 2 * (2 + 3) * 4 * 16


@pytest.mark.parametrize("wrong", [{"q_heads": 3}, {"phase": "prefill", "chunk": 41}])
def test_work_that_no_model_asks_for_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(SettingsError):
        replace(WORK, **wrong).check()


def test_a_vllm_that_is_not_there_is_told() -> None:
    with pytest.raises(SettingsError, match="/none/such cannot be started"):
        vllm_ms(Path("/none/such"), WORK, 1, 1)


def test_a_python_without_vllm_is_told() -> None:
    with pytest.raises(SettingsError, match="vLLM's attention failed"):
        vllm_ms(Path("/bin/false"), WORK, 1, 1)


@pytest.mark.slow
@pytest.mark.parametrize("phase", ["decode", "prefill"])
def test_figures_are_written_as_one_line(phase: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (attention, attention_work):
        monkeypatch.setattr(module, "MIN_BYTES", 2**16)
    machine = Machine(instruction_set="torch", num_threads=1)
    out = StringIO()

    bench_attention(replace(WORK, phase=phase), machine, num_runs=2, compare=True).write_json(out)

    figures = json.loads(out.getvalue())
    assert figures["kv_gb_per_s"] == pytest.approx(figures["fraction"] * figures["read_gb_per_s"])
    assert set(figures["reads"]) == {"numpy_sum", "half_memcpy"}
    assert ("matmul" in figures["compared"]) == (phase == "prefill")
