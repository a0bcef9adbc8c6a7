"""Pages that are shared, taken away and found again change what is computed, never what is said."""

import random
from collections.abc import Iterator
from functools import cache, partial
from typing import Any

import pytest

from services.admin.inline import attention_worker, layer_worker
from services.router.drains import DrainWorker
from services.router.lines import ParsedLine
from services.router.page_rules import PageTotals
from tests.support.checkpoints import VOCAB_SIZE, cached_checkpoint
from tests.support.inline import lines_for, make_cluster, one_thread, tokens

FAMILY = "qwen25"
NUM_STEPS = 24

WITHOUT = {"enable_prefix_caching": False, "kv_policy": "guaranteed"}
CLUSTERS: dict[str, dict[str, Any]] = {
    "shared": {},
    "shared on two workers": {"shape": (2, 2), "in_flight": 3},
    "shared in small chunks": {"max_num_batched_tokens": 20, "in_flight": 2},
    "preempted": {"enable_prefix_caching": False, "kv_memory": 160 << 10},
    "preempted and shared": {"kv_memory": 112 << 10, "in_flight": 2},
    "guaranteed and shared": {"kv_policy": "guaranteed", "kv_memory": 160 << 10},
}


def some_lines() -> list[ParsedLine]:
    """Lines with a common prefix of three pages, one of it alone, and others; two choices each."""
    draw = random.Random(3)
    prefix = [draw.randrange(3, VOCAB_SIZE) for _ in range(48)]
    tails = [[draw.randrange(3, VOCAB_SIZE) for _ in range(size)] for size in (1, 7, 16, 30)]
    prompts = [prefix, *(prefix + tail for tail in tails), *tails]
    return lines_for(prompts, NUM_STEPS, n=2)


def run(**changes: Any) -> tuple[list[tuple[int, ...]], PageTotals]:
    cluster = make_cluster(cached_checkpoint(FAMILY)[0], dtype="bf16", **changes)
    tenancy = cluster.router.scheduler.tenancy
    for _ in range(100):  # as if earlier lines had ended soon, so that too many are let in
        tenancy.output_share.observe(1, 100)
    return tokens(cluster.generate(some_lines())), tenancy.totals


@cache
def plain() -> tuple[list[tuple[int, ...]], PageTotals]:
    return run(**WITHOUT)


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    with one_thread():
        yield


@pytest.mark.slow
@pytest.mark.parametrize("changes", CLUSTERS.values(), ids=CLUSTERS.keys())
def test_the_same_is_said_from_shared_and_from_recomputed_pages(changes: dict[str, Any]) -> None:
    said, totals = run(**changes)

    assert said == plain()[0]
    shares = changes.get("enable_prefix_caching", True)
    assert (totals.found_tokens > 0) == shares
    is_small = "kv_memory" in changes and changes.get("kv_policy") != "guaranteed"
    assert (totals.preemptions > 0) == is_small


@pytest.mark.slow
def test_a_common_prefix_is_computed_once() -> None:
    _, totals = run()

    # Five lines of two choices share it; the first of them computes it, and two pages of it serve
    # the line that is the prefix alone, since its last token must be computed.
    assert totals.found_tokens >= 48 * 7 + 32 * 2


@pytest.mark.slow
def test_workers_come_and_go_while_lines_run() -> None:
    changes: dict[str, Any] = {"shape": (1, 1), "kv_memory": 160 << 10}
    cluster = make_cluster(cached_checkpoint(FAMILY)[0], dtype="bf16", **changes)
    clock = cluster.bus.clock
    clock.call_at(0.1, lambda: cluster.add_attention_worker(1))
    clock.call_at(0.15, lambda: cluster.add_layer_worker(1))
    leave = [attention_worker(0), layer_worker(0)]
    for worker_id in leave:
        event = DrainWorker(worker_id=worker_id, deadline_s=0.05)
        clock.call_at(0.4, partial(cluster.tell, event))

    said = tokens(cluster.generate(some_lines()))

    assert said == plain()[0]
    assert not cluster.router.members.workers.keys() & set(leave)
