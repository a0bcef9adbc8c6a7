"""`glinthawk bench throughput` and `glinthawk trace`, as a user types them."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.processes import SHIPPED, run

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(120)]

SMALL = ("--requests", 4, "--prompt-tokens", 20, "--output-tokens", 5, "--threads", 1)


def bench(temporary: Path, *words: object) -> dict[str, Any]:
    code, out, error = run(
        temporary, "bench", "throughput", "--model", SHIPPED, *SMALL, "--json", *words
    )
    assert code == 0, error
    figures: dict[str, Any] = json.loads(out)
    return figures


def test_a_cluster_is_measured_and_traced(temporary: Path, tmp_path: Path) -> None:
    trace = tmp_path / "trace.json"

    figures = bench(
        temporary,
        *("--attention-workers", 2, "--link-delay-ms", 2, "--runs", 2, "--trace", trace),
    )

    assert figures["num_runs"] == 2
    assert 0 < figures["output_tokens_per_s"] < figures["total_tokens_per_s"]
    assert 0 < figures["bubbles"] < 1
    assert figures["peak_rss_bytes"].keys() == {
        *("router", "kv-manager", "layer-worker-0", "attention-worker-0", "attention-worker-1")
    }
    assert all(size > 2**20 for size in figures["peak_rss_bytes"].values())
    names = {event["name"] for event in json.loads(trace.read_text())["traceEvents"]}
    assert {"pre 0", "post 0 + pre 1", "attend 3", "post 3", "step.sampled"} <= names


def test_the_same_workload_is_measured_in_one_process(temporary: Path) -> None:
    figures = bench(temporary, "--compute", "inline")

    assert figures["compute"] == "inline"
    assert figures["output_tokens_per_s"] > 0
    assert figures["peak_rss_bytes"].keys() == {"inline"}
    assert figures["bytes_per_link"]


def test_traces_of_a_job_are_merged(temporary: Path, tmp_path: Path) -> None:
    line = {"prompt": [5, 6, 7], "max_tokens": 3}
    batch = tmp_path / "in.jsonl"
    batch.write_text(
        json.dumps({"custom_id": "1", "method": "POST", "url": "/v1/completions", "body": line})
    )
    job = ("run-batch", "-i", batch, "-o", tmp_path / "out.jsonl", "--model", SHIPPED)
    code, _, error = run(temporary, *job, "--trace-directory", tmp_path / "traces")
    assert code == 0, error

    code, out, error = run(temporary, "trace", tmp_path / "traces", "-o", tmp_path / "all.json")

    assert code == 0, error
    assert "marks" in out
    assert json.loads((tmp_path / "all.json").read_text())["traceEvents"]
