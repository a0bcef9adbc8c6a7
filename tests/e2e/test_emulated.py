"""A cluster that computes nothing: real processes, a model without weights, no torch anywhere."""

import json
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from common.policy.profile import Profile
from tests.support.emulation import (
    ATTENTION_PROFILE,
    LAYER_PROFILE,
    SHAPE,
    write_config,
    write_profile,
)
from tests.support.processes import processes_of, run, url_of

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(120)]

NUM_LINES, NUM_TOKENS = 12, 20


@pytest.fixture
def options(tmp_path: Path) -> tuple[object, ...]:
    def profile(name: str, content: Profile) -> Path:
        return write_profile(tmp_path / f"{name}.json", content)

    return (
        *("--model", write_config(tmp_path / "model"), "--compute", "emulated"),
        *("--layer-profile", profile("layer", LAYER_PROFILE)),
        *("--attention-profile", profile("attention", ATTENTION_PROFILE)),
        *("--time-scale", 0.001, "--kv-memory", "1TiB"),
    )


@pytest.fixture
def batch(tmp_path: Path) -> Path:
    path = tmp_path / "in.jsonl"
    body = {"prompt": [5, 6, 7], "max_tokens": NUM_TOKENS, "return_token_ids": True}
    line = {"method": "POST", "url": "/v1/completions", "body": body}
    path.write_text(
        "".join(json.dumps({"custom_id": str(n), **line}) + "\n" for n in range(NUM_LINES))
    )
    return path


def test_an_emulated_job_ends_by_length_with_the_same_tokens_everywhere(
    temporary: Path, tmp_path: Path, options: tuple[object, ...], batch: Path
) -> None:
    output, report = tmp_path / "out.jsonl", tmp_path / "report.json"

    code, _, error = run(
        temporary,
        *("run-batch", "-i", batch, "-o", output, "--report", report, *options),
        *("--layer-workers", 2, "--attention-workers", 3),
    )

    assert code == 0, error
    choices = [
        json.loads(text)["response"]["body"]["choices"][0]
        for text in output.read_text().splitlines()
    ]
    assert len(choices) == NUM_LINES
    assert {choice["finish_reason"] for choice in choices} == {"length"}
    assert len({tuple(choice["token_ids"]) for choice in choices}) == 1
    assert max(choices[0]["token_ids"]) < SHAPE.vocab_size
    figures = json.loads(report.read_text())
    assert figures["generated_tokens"] == NUM_LINES * NUM_TOKENS
    assert figures["kernel_paths"] == ["attention_worker emulated", "layer_worker emulated"]


def test_no_process_of_an_emulated_cluster_loads_torch(
    temporary: Path, launch: Callable[..., subprocess.Popen[str]], options: tuple[object, ...]
) -> None:
    cluster = launch("up", "--port", 0, *options)
    assert cluster.stderr
    assert any(text.startswith("glinthawk serves at ") for text in cluster.stderr)

    workers = processes_of(temporary, "layer_worker") + processes_of(temporary, "attention_worker")

    maps = [[each.path for each in worker.memory_maps()] for worker in workers]
    cluster.terminate()
    cluster.communicate(timeout=60)
    assert len(maps) == 2
    assert not [path for paths in maps for path in paths if "libtorch" in path]


def test_a_cluster_file_becomes_processes_that_run_a_job(
    temporary: Path, tmp_path: Path, launch: Callable[..., subprocess.Popen[str]], batch: Path
) -> None:
    layer = write_profile(tmp_path / "layer.json", LAYER_PROFILE)
    attention = write_profile(tmp_path / "attention.json", ATTENTION_PROFILE)
    content = {
        "model": str(write_config(tmp_path / "model")),
        "tier1": {"device": str(layer), "nodes": 2, "memory_gib": 1},
        "tier2": {"device": str(attention), "nodes": 3, "memory_gib": 1},
        "network": {"bandwidth_gbps": 8, "rtt_ms": 1},
        "kv_dtype": "fp32",
        "time_scale": 0.001,
    }
    file = tmp_path / "cluster.yaml"
    file.write_text(json.dumps(content))
    cluster = launch("up", "--emulate", file, "--port", 0)
    url, output = url_of(cluster), tmp_path / "out.jsonl"

    code, _, error = run(temporary, "run-batch", "-i", batch, "-o", output, "--url", url)

    num_workers = [
        len(processes_of(temporary, f"{tier}_worker")) for tier in ("layer", "attention")
    ]
    cluster.send_signal(signal.SIGTERM)
    cluster.communicate(timeout=60)
    assert code == 0, error
    assert len(output.read_text().splitlines()) == NUM_LINES
    assert num_workers == [2, 3]
    assert cluster.returncode == 0


def test_a_worker_without_its_profile_is_refused(
    temporary: Path, tmp_path: Path, options: tuple[object, ...], batch: Path
) -> None:
    output = tmp_path / "out.jsonl"

    code, _, error = run(temporary, "run-batch", "-i", batch, "-o", output, *options[:4])

    assert (code, error.count("\n")) == (2, 1)
    assert "needs a profile" in error
