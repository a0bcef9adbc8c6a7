"""Placement: which pool a new request gets."""

from dataclasses import dataclass

from common.ids import WorkerId
from common.policy.placement import place


@dataclass(frozen=True)
class FakeRoom:
    worker_id: WorkerId
    capacity_tokens: int = 100
    free_tokens: int = 100
    expected_tokens: int = 0


def room(name: str, **fields: int) -> FakeRoom:
    return FakeRoom(WorkerId(name), **fields)


def test_the_least_loaded_worker_is_chosen_by_tokens() -> None:
    chosen = place([room("a", expected_tokens=60), room("b", expected_tokens=50)], 10, 20)

    assert chosen is not None
    assert chosen.worker_id == "b"


def test_load_is_a_part_of_the_capacity() -> None:
    small = room("small", capacity_tokens=100, expected_tokens=20)
    large = room("large", capacity_tokens=1000, expected_tokens=100)

    assert place([small, large], 10, 10) is large


def test_the_request_itself_counts_as_load() -> None:
    small = room("small", capacity_tokens=100)
    large = room("large", capacity_tokens=1000, expected_tokens=100)

    assert place([small, large], 10, 90) is large


def test_a_worker_without_room_is_left_out() -> None:
    full = room("full", free_tokens=9)
    busy = room("busy", expected_tokens=90)

    assert place([full, busy], 10, 10) is busy


def test_equal_load_goes_to_the_first_name() -> None:
    chosen = place([room("b"), room("a")], 1, 1)

    assert chosen is not None
    assert chosen.worker_id == "a"


def test_without_room_there_is_no_place() -> None:
    assert place([room("a", free_tokens=9)], 10, 10) is None
    assert place([], 10, 10) is None


def test_an_empty_pool_is_never_chosen() -> None:
    assert place([room("a", capacity_tokens=0, free_tokens=0)], 0, 0) is None
