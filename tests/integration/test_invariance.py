"""A token depends on its line alone: not on its company, its place, its chunks or what failed."""

import random
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch

from common.messages import AttentionRequest
from services.admin.inline import attention_worker
from services.router.lines import GREEDY, ParsedLine, SamplingParameters
from tests.support.checkpoints import VOCAB_SIZE, cached_checkpoint
from tests.support.faults import Script, dies
from tests.support.inline import lines_for, make_cluster, one_thread, tokens

FAMILY = "qwen25"
"""Has biases, stretched rotations, and layers with and without a sliding window."""
DTYPES = ("fp32", "bf16")
NUM_STEPS = 16

SAMPLED = replace(GREEDY, temperature=1.0, top_p=0.95, seed=7)

CLUSTERS: dict[str, dict[str, Any]] = {
    "all at once": {"max_num_batched_tokens": 2048, "in_flight": 1},
    "tiny chunks": {"max_num_batched_tokens": 7, "in_flight": 1},
    "chunks between": {"max_num_batched_tokens": 33, "in_flight": 2, "block_size": 64},
    "many in flight": {"shape": (2, 2), "in_flight": 7, "block_size": 1},
    "three ranges": {"shape": (3, 1), "in_flight": 3},
    "three places": {"shape": (1, 3), "in_flight": 2, "block_size": 32},
    "little room": {"shape": (2, 2), "max_num_seqs": 3, "kv_memory": 192 << 10},
}


def some_lines(sampling: SamplingParameters) -> list[ParsedLine]:
    draw = random.Random(1)
    sizes = (1, 15, 16, 17, 40, 64, 65, 130)
    prompts = [[draw.randrange(3, VOCAB_SIZE) for _ in range(size)] for size in sizes]
    return lines_for(prompts, NUM_STEPS, sampling=sampling, n=1 if sampling is GREEDY else 2)


@cache
def alone(dtype: str, sampling: SamplingParameters) -> list[tuple[int, ...]]:
    """What each line says when it has a cluster of one worker per tier to itself."""
    cluster = make_cluster(cached_checkpoint(FAMILY)[0], dtype=dtype)
    return [choice for line in some_lines(sampling) for choice in tokens(cluster.generate([line]))]


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    with one_thread():
        yield


@pytest.mark.slow
@pytest.mark.parametrize("changes", CLUSTERS.values(), ids=CLUSTERS.keys())
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_line_says_alone_what_it_says_in_company(dtype: str, changes: dict[str, Any]) -> None:
    cluster = make_cluster(cached_checkpoint(FAMILY)[0], dtype=dtype, **changes)

    outcomes = cluster.generate(some_lines(GREEDY))

    assert tokens(outcomes) == alone(dtype, GREEDY)


@pytest.mark.slow
@pytest.mark.parametrize("changes", CLUSTERS.values(), ids=CLUSTERS.keys())
def test_a_seed_says_alone_what_it_says_in_company(changes: dict[str, Any]) -> None:
    cluster = make_cluster(cached_checkpoint(FAMILY)[0], dtype="bf16", **changes)

    outcomes = cluster.generate(some_lines(SAMPLED))

    assert tokens(outcomes) == alone("bf16", SAMPLED)


@pytest.mark.slow
@pytest.mark.parametrize("quantization", ["w8a16", "w8a8"])
def test_quantized_layers_say_alone_what_they_say_in_company(quantization: str) -> None:
    if quantization == "w8a8" and not torch.cpu._is_vnni_supported():
        pytest.skip("this CPU has no VNNI")
    directory, settings = cached_checkpoint(FAMILY)[0], {"quantization": quantization}
    lone = make_cluster(directory, dtype="bf16", **settings)
    expected = [said for line in some_lines(GREEDY) for said in tokens(lone.generate([line]))]
    cluster = make_cluster(
        directory, (2, 1), dtype="bf16", max_num_batched_tokens=33, in_flight=2, **settings
    )

    outcomes = cluster.generate(some_lines(GREEDY))

    assert tokens(outcomes) == expected


@pytest.mark.slow
def test_the_choices_of_a_seed_differ() -> None:
    said = alone("bf16", SAMPLED)

    assert len(set(said)) == len(said)


@pytest.mark.slow
@pytest.mark.parametrize("number", [1, 60, 200])
@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_computed_again_is_the_same_again(dtype: str, number: int) -> None:
    cluster = make_cluster(cached_checkpoint(FAMILY)[0], (2, 2), dtype=dtype, in_flight=3)
    cluster.bus.fate = Script(cluster, {(AttentionRequest, number): dies(attention_worker(0))})

    outcomes = cluster.generate(some_lines(GREEDY))

    assert tokens(outcomes) == alone(dtype, GREEDY)
