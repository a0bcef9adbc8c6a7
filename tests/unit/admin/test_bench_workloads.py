"""Workloads are the published ones unless changed, and their checkpoints can be served."""

import json
from pathlib import Path

import pytest

from common.checkpoint_header import check_checkpoint
from common.errors import SettingsError
from common.model_spec import read_model_spec
from services.admin.bench.workloads import (
    Shape,
    choose_workload,
    find_model,
    make_checkpoint,
    make_prompts,
    write_batch,
)

TINY = Shape(
    hidden_size=32,
    intermediate_size=48,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    vocab_size=64,
    tied=False,
)


def test_a_workload_is_as_published_unless_changed() -> None:
    published = choose_workload("B", model=None, num_requests=None)
    changed = choose_workload("B", model="./mine", num_requests=2)

    assert (published.num_requests, published.prompt_tokens) == (32, 1024)
    assert (changed.model, changed.num_requests, changed.prompt_tokens) == ("./mine", 2, 1024)


def test_a_checkpoint_that_is_no_random_one_keeps_its_name() -> None:
    assert find_model("./mine") == "./mine"


def test_an_unknown_random_checkpoint_is_refused_with_the_known_ones() -> None:
    with pytest.raises(SettingsError, match="random:llama-300m"):
        find_model("random:llama-301m")


@pytest.mark.slow  # loads torch
def test_a_random_checkpoint_is_made_once_and_can_be_served(tmp_path: Path) -> None:
    directory = make_checkpoint(tmp_path / "model", TINY)
    written = (directory / "model.safetensors").stat().st_mtime_ns

    make_checkpoint(directory, TINY)

    check_checkpoint(directory, read_model_spec(directory))
    assert (directory / "model.safetensors").stat().st_mtime_ns == written


def test_a_batch_file_asks_for_every_output_token(tmp_path: Path) -> None:
    workload = choose_workload("A", num_requests=3, prompt_tokens=5, output_tokens=7)
    prompts = make_prompts(workload, 64, seed=1)

    path = write_batch(tmp_path / "in.jsonl", workload, prompts)

    bodies = [json.loads(text)["body"] for text in path.read_text().splitlines()]
    assert [body["prompt"] for body in bodies] == prompts
    assert {len(prompt) for prompt in prompts} == {5}
    assert all(body["max_tokens"] == 7 and body["ignore_eos"] for body in bodies)


def test_prompts_differ_by_seed_and_only_by_seed() -> None:
    workload = choose_workload("A", num_requests=2)

    again = [make_prompts(workload, 64, seed) for seed in (1, 1, 2)]

    assert again[0] == again[1] != again[2]
