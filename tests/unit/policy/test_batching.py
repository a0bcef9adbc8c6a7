"""Which ready requests form the next microbatch."""

import numpy as np
import pytest

from common.policy.batching import (
    CHUNK_ALIGNMENT,
    Limits,
    Ready,
    choose,
    fan_out,
    is_worth_sending,
)

LIMITS = Limits(max_entries=8, max_rows=256, max_workers=8)


def candidate(number: int, worker: str = "a", missing: int = 1, start: int = 0, alone=False):
    """Give a ready request's place in every column."""
    return (number, ord(worker) - ord("a"), start, missing, alone)


def ready_of(candidates) -> Ready:
    ids, workers, starts, num_missing, alone = np.array(candidates, np.int64).reshape(-1, 5).T
    return Ready(
        request_ids=ids, workers=workers, starts=starts, num_missing=num_missing, alone=alone > 0
    )


def chosen(candidates, limits: Limits = LIMITS) -> list[tuple[int, int]]:
    ready = ready_of(candidates)
    choice = choose(ready, limits)
    return list(
        zip(ready.request_ids[choice.places].tolist(), choice.num_rows.tolist(), strict=True)
    )


def test_nothing_ready_is_no_microbatch():
    assert chosen([]) == []


def test_entries_are_grouped_by_worker_and_ordered_by_age():
    ready = [candidate(3, "b"), candidate(1, "a"), candidate(2, "b"), candidate(0, "a")]

    assert chosen(ready) == [(0, 1), (1, 1), (2, 1), (3, 1)]


def test_decode_goes_before_prefill():
    limits = Limits(max_entries=1, max_rows=256, max_workers=8)

    assert chosen([candidate(0, missing=100), candidate(1)], limits) == [(1, 1)]


def test_prefill_shares_what_decode_leaves_of_the_budget():
    ready = [candidate(0), candidate(1, missing=300)]

    assert chosen(ready) == [(0, 1), (1, 192)]


def test_a_chunk_that_goes_on_ends_on_an_aligned_position():
    ready = [candidate(0, missing=1000, start=100)]

    [(_, num_rows)] = chosen(ready)

    assert (100 + num_rows) % CHUNK_ALIGNMENT == 0


def test_a_budget_below_the_alignment_still_makes_progress():
    limits = Limits(max_entries=8, max_rows=7, max_workers=8)

    assert chosen([candidate(0, missing=100)], limits) == [(0, 7)]


def test_few_workers_are_drawn_on_first():
    limits = Limits(max_entries=2, max_rows=256, max_workers=1)
    ready = [candidate(0, "a"), candidate(1, "b"), candidate(2, "b")]

    assert chosen(ready, limits) == [(1, 1), (2, 1)]


def test_other_workers_top_it_up():
    limits = Limits(max_entries=3, max_rows=256, max_workers=1)
    ready = [candidate(0, "a"), candidate(1, "b"), candidate(2, "b")]

    assert chosen(ready, limits) == [(0, 1), (1, 1), (2, 1)]


def test_a_suspect_travels_alone():
    assert chosen([candidate(0), candidate(1, alone=True), candidate(2)]) == [(1, 1)]


def test_a_pipeline_of_ranges_shares_the_workers():
    assert [fan_out(27, 9), fan_out(2, 3), fan_out(4, 3)] == [3, 1, 2]


@pytest.mark.parametrize(
    ("ready", "num_live", "worth"),
    [
        ([candidate(number) for number in range(4)], 1, True),
        ([candidate(number) for number in range(3)], 1, False),
        ([candidate(0, missing=128)], 1, True),
        ([candidate(0)], 0, True),
        ([candidate(0, alone=True), candidate(1)], 1, True),
    ],
    ids=["half of the entries", "few", "half of the rows", "nothing to merge with", "a suspect"],
)
def test_a_small_microbatch_waits_for_others_to_merge_with(ready, num_live, worth):
    assert is_worth_sending(choose(ready_of(ready), LIMITS), LIMITS, num_live) == worth
