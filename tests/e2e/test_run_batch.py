"""`glinthawk run-batch` with the shipped model, over real processes."""

import json
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from examples.tiny.check import judge
from tests.support.processes import ROOT, SHIPPED, eventually, processes_of, run

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(120)]

Launch = Callable[..., subprocess.Popen[str]]

SHIPPED_BATCH = ROOT / "examples/tiny/batch.jsonl"


def line(custom_id: str, **body: Any) -> dict[str, Any]:
    asked = {"prompt": "<s><|user|>upper: willow<|assistant|>", "max_tokens": 12, "temperature": 0}
    return {
        "custom_id": custom_id,
        "method": "POST",
        "url": "/v1/completions",
        "body": {**asked, "return_token_ids": True, **body},
    }


def write_batch(path: Path, *lines: dict[str, Any] | str) -> Path:
    texts = [each if isinstance(each, str) else json.dumps(each) for each in lines]
    path.write_text("".join(f"{text}\n" for text in texts))
    return path


def read_results(path: Path) -> list[dict[str, Any]]:
    return [json.loads(text) for text in path.read_text().splitlines()]


def long_batch(path: Path, num_short: int = 0) -> Path:
    """Write a batch that takes some seconds, but for its first lines."""
    sizes = [20 if number < num_short else 200 for number in range(96)]
    return write_batch(
        path,
        *(
            line(f"line-{number}", max_tokens=size, ignore_eos=True, seed=number)
            for number, size in enumerate(sizes)
        ),
    )


def clear(temporary: Path) -> None:
    """Do what nobody was left to do: remove the cluster's folder."""
    for path in sorted(temporary.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()


@pytest.mark.parametrize(("layer_workers", "attention_workers"), [(1, 1), (2, 2)])
def test_the_shipped_batch_gets_its_answers_in_order(
    temporary: Path, tmp_path: Path, layer_workers: int, attention_workers: int
) -> None:
    output, report = tmp_path / "out.jsonl", tmp_path / "report.json"

    code, out, error = run(
        temporary,
        *("run-batch", "-i", SHIPPED_BATCH, "-o", output, "--report", report, "--model", SHIPPED),
        *("--layer-workers", layer_workers, "--attention-workers", attention_workers),
    )

    assert code == 0, error
    asked = [json.loads(text)["custom_id"] for text in SHIPPED_BATCH.read_text().splitlines()]
    assert [result["custom_id"] for result in read_results(output)] == asked
    verdicts = judge(SHIPPED_BATCH, output)
    assert sum(verdict.is_right for verdict in verdicts) >= 0.95 * len(verdicts)
    figures = json.loads(report.read_text())
    assert (figures["rows"], figures["failed"]) == (len(asked), 0)
    assert 0 < figures["tier1_busy"] < 1
    assert figures["bytes_per_link"]
    assert str(output) in out
    assert not (tmp_path / "out.jsonl.part").exists()


def test_bad_lines_get_error_lines_and_the_others_their_results(
    temporary: Path, tmp_path: Path
) -> None:
    wrong = {
        "not json": '{"custom_id": "cut',
        "no body": '{"custom_id": "no body", "method": "POST", "url": "/v1/completions"}',
        "url": json.dumps({**line("url"), "url": "/v1/embeddings"}),
        "long": json.dumps(line("long", prompt="a" * 600)),
        "empty": json.dumps(line("empty", prompt="")),
        "first": json.dumps(line("first")),  # the same custom_id again
        "never fits": json.dumps(line("never fits", n=2, max_tokens=400)),
        "parameter": json.dumps(line("parameter", tempratur=1)),
    }
    batch = write_batch(tmp_path / "in.jsonl", line("first"), *wrong.values(), line("last"))
    output = tmp_path / "out.jsonl"

    # Two pages of 64 tokens: too few for the 400 of one line.
    code, out, error = run(
        temporary,
        *("run-batch", "-i", batch, "-o", output, "--model", SHIPPED, "--kv-memory", "128KiB"),
    )

    assert code == 0, error
    assert f"{len(wrong) + 2} ({len(wrong)} failed)" in out
    first, *refused, last = read_results(output)
    assert [result["custom_id"] for result in refused] == [None, *list(wrong)[1:]]
    for result, told in zip(
        refused,
        ("JSON", "'body' is missing", "url", "600", "empty", "custom_id", "page", "temperature"),
        strict=True,
    ):
        assert told in result["error"]["message"]
        assert result["response"]["status_code"] >= 400
    assert first["response"]["body"]["choices"] == last["response"]["body"]["choices"]


@pytest.mark.parametrize("when", ["starting", "running"])
def test_ctrl_c_leaves_no_process_and_no_full_output(
    temporary: Path, tmp_path: Path, launch: Launch, when: str
) -> None:
    batch, output = long_batch(tmp_path / "in.jsonl"), tmp_path / "out.jsonl"
    process = launch("run-batch", "-i", batch, "-o", output, "--model", SHIPPED)
    part = tmp_path / "out.jsonl.part"
    eventually(lambda: processes_of(temporary, "router") if when == "starting" else part.exists())

    process.send_signal(signal.SIGINT)

    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert error.splitlines()[-1] == "glinthawk: interrupted; nothing is left running"
    assert not output.exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_command_that_ended_goes_on_when_it_is_given_again(
    temporary: Path, tmp_path: Path, launch: Launch, number: signal.Signals
) -> None:
    batch, output = long_batch(tmp_path / "in.jsonl", num_short=16), tmp_path / "out.jsonl"
    words = ("run-batch", "-i", batch, "-o", output, "--model", SHIPPED)
    part = tmp_path / "out.jsonl.part"
    first = launch(*words)
    eventually(lambda: part.exists() and part.read_bytes().count(b"\n") >= 8)
    first.send_signal(number)
    first.communicate(timeout=60)
    eventually(lambda: not processes_of(temporary))
    clear(temporary)

    code, _, error = run(temporary, *words)

    assert code == 0, error
    going_on = next(text for text in error.splitlines() if text.startswith("going on: "))
    assert int(going_on.split()[2]) >= 8
    assert [each["custom_id"] for each in read_results(output)] == [f"line-{n}" for n in range(96)]
    tokens = [each["response"]["body"]["choices"][0]["token_ids"] for each in read_results(output)]
    assert all(each == tokens[-1][: len(each)] for each in tokens)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl"]


def test_an_unfinished_output_is_not_gone_on_with_another_dtype(
    temporary: Path, tmp_path: Path, launch: Launch
) -> None:
    batch, output = long_batch(tmp_path / "in.jsonl"), tmp_path / "out.jsonl"
    words = ("run-batch", "-i", batch, "-o", output, "--model", SHIPPED)
    first = launch(*words)
    eventually((tmp_path / "out.jsonl.part").exists)
    first.send_signal(signal.SIGTERM)
    first.communicate(timeout=60)

    code, _, error = run(temporary, *words, "--dtype", "fp32")

    assert code == 2
    assert "begun with dtype bf16 and not fp32, kv_cache_dtype bf16 and not fp32" in error


@pytest.mark.parametrize("service", ["layer_worker", "attention_worker", "kv_manager", "router"])
def test_a_process_that_is_killed_costs_no_line(
    temporary: Path, tmp_path: Path, launch: Launch, service: str
) -> None:
    batch, output = long_batch(tmp_path / "in.jsonl"), tmp_path / "out.jsonl"
    process = launch("run-batch", "-i", batch, "-o", output, "--model", SHIPPED)
    part = tmp_path / "out.jsonl.part"
    eventually(part.exists)

    processes_of(temporary, f"{service} ")[0].kill()

    _, error = process.communicate(timeout=100)
    assert process.returncode == 0, error
    assert "was ended by SIGKILL; it was started again" in error
    results = read_results(output)
    assert [result["custom_id"] for result in results] == [f"line-{n}" for n in range(96)]
    tokens = [result["response"]["body"]["choices"][0]["token_ids"] for result in results]
    assert all(each == tokens[0] for each in tokens)


def test_a_cluster_dies_with_its_command(temporary: Path, tmp_path: Path, launch: Launch) -> None:
    batch = long_batch(tmp_path / "in.jsonl")
    process = launch("run-batch", "-i", batch, "-o", tmp_path / "out.jsonl", "--model", SHIPPED)
    eventually((tmp_path / "out.jsonl.part").exists)

    process.kill()

    process.communicate(timeout=60)
    eventually(lambda: not processes_of(temporary))
    clear(temporary)
