"""The figures that need a GPU: without one the command says so, and a dry run finds its mistakes."""

import json
import subprocess
import sys

import pytest
import torch

FIGURES = (
    "logits",
    "attention",
    "int8",
    "int4",
    "stages",
    "attention-speed",
    "overlap",
    "tiers",
)


def run(*words: str) -> list[str]:
    command = [sys.executable, "-m", "benchmarks.gpu", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_every_figure_is_said_not_to_be_measured() -> None:
    lines = run()

    assert [line.partition(" ")[0] for line in lines] == list(FIGURES)
    assert all(line.endswith(": no GPU: not measured") for line in lines)


@pytest.mark.slow
def test_a_dry_run_goes_through_every_figure_and_its_checks_hold() -> None:
    lines = [json.loads(line) for line in run("--dry-run")]

    assert tuple(dict.fromkeys(line["figure"] for line in lines)) == FIGURES
    assert all(line["met"] for line in lines if line["figure"] in FIGURES[:4])
