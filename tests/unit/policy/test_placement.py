"""Placement: which worker a new request goes to."""

from dataclasses import dataclass

from common.ids import WorkerId
from common.policy.placement import FOUND_WORTH, place


@dataclass(frozen=True)
class FakeOffer:
    worker_id: WorkerId
    load_tokens: int = 0
    found_tokens: int = 0
    tokens_per_s: float = 1.0


def offer(name: str, **fields: float) -> FakeOffer:
    return FakeOffer(WorkerId(name), **fields)  # type: ignore[arg-type]


def test_the_least_loaded_worker_is_chosen_by_tokens() -> None:
    busy, idle = offer("a", load_tokens=60), offer("b", load_tokens=50)

    assert place([busy, idle], 20) is idle


def test_load_is_measured_by_the_time_that_it_takes() -> None:
    slow, fast = offer("a", load_tokens=30), offer("b", load_tokens=50, tokens_per_s=2.0)

    assert place([slow, fast], 20) is fast


def test_the_request_itself_counts_as_load() -> None:
    slow, fast = offer("a", load_tokens=0), offer("b", load_tokens=80, tokens_per_s=10.0)

    assert place([slow, fast], 1) is slow
    assert place([slow, fast], 90) is fast


def test_a_prefix_draws_until_the_load_is_too_uneven() -> None:
    elsewhere = offer("a")

    assert (
        place([elsewhere, near := offer("b", load_tokens=FOUND_WORTH * 64 - 1, found_tokens=64)], 9)
        is near
    )
    assert (
        place([elsewhere, offer("b", load_tokens=FOUND_WORTH * 64 + 1, found_tokens=64)], 9)
        is elsewhere
    )


def test_equal_load_goes_to_the_first_name() -> None:
    assert place([offer("b"), first := offer("a")], 1) is first


def test_without_offers_there_is_no_place() -> None:
    assert place([], 10) is None
