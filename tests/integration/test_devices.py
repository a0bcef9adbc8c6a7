"""What tier 1's device and spare memory do to a job: nothing but its speed."""

import random
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from common.model_spec import read_model_spec
from services.admin.inline import (
    InlineCluster,
    InlineEngines,
    attention_worker,
)
from services.layer_worker.engine import LayerEngine
from services.router.config import RouterSettings
from services.router.lines import ParsedLine
from tests.support.checkpoints import VOCAB_SIZE, cached_checkpoint
from tests.support.device import LateDevice
from tests.support.inline import KV_MEMORY, lines_for, make_cluster, one_thread, tokens

FAMILIES = ("llama3", "qwen25")
"""The second has windows shorter than its prompts."""


def lines() -> list[ParsedLine]:
    draw = random.Random(5)
    prompts = [
        [draw.randrange(3, VOCAB_SIZE) for _ in range(size)] for size in (1, 17, 64, 65, 130, 200)
    ]
    return lines_for(prompts, 12)


@cache
def with_native_attention_alone(family: str) -> list[tuple[int, ...]]:
    return tokens(make_cluster(cached_checkpoint(family)[0]).generate(lines()))


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    with one_thread():
        yield


@pytest.mark.slow
@pytest.mark.parametrize("prefill_attention", ["tier1", "tier2"])
@pytest.mark.parametrize("family", FAMILIES)
def test_pages_beside_the_weights_and_on_attention_workers_give_the_same_tokens(
    family: str, prefill_attention: str
) -> None:
    directory = cached_checkpoint(family)[0]
    cluster = make_cluster(directory, prefill_attention=prefill_attention)
    settings = RouterSettings(model=str(directory))
    beside = InlineEngines.real(settings, kv_memory=KV_MEMORY, threads=1, kernel="gather")
    cluster.add_attention_worker(1, beside)

    found = tokens(cluster.generate(lines()))

    workers = {worker["worker_id"]: worker for worker in cluster.status()["workers"]}
    assert workers[attention_worker(1)]["kernel_path"] == "cpu-gather"
    assert all(workers[attention_worker(index)]["links"] for index in (0, 1)), "one has no work"
    assert found == with_native_attention_alone(family)


@pytest.mark.slow
@pytest.mark.parametrize("prefill_attention", ["tier1", "tier2"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_device_that_replays_what_it_captured_gives_the_same_tokens(
    family: str, prefill_attention: str
) -> None:
    directory = cached_checkpoint(family)[0]
    device = LateDevice()
    cluster = captured(directory, device, prefill_attention)

    found = tokens(cluster.generate(lines()))

    assert device.num_replays > 0
    assert found == with_native_attention_alone(family)


def captured(directory: Path, device: LateDevice, prefill_attention: str) -> InlineCluster:
    settings = RouterSettings(
        model=str(directory),
        dtype="fp32",
        block_size=16,
        max_num_batched_tokens=64,
        prefill_attention=prefill_attention,
    )
    spec = read_model_spec(directory)
    engines = replace(
        InlineEngines.real(settings, kv_memory=KV_MEMORY, threads=1),
        make_layer=lambda: LayerEngine(directory, spec, device).compute,
    )
    return InlineCluster(settings, kv_memory=KV_MEMORY, engines=engines)
