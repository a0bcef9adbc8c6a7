"""Preemption: who is proposed to make room."""

from hypothesis import given
from hypothesis import strategies as st

from common.ids import RequestId
from common.policy.preemption import Holder, propose_victims

ASKER = RequestId(10)


def holder(request_id: int, num_tokens: int, num_pages: int = 1) -> Holder:
    return Holder(request_id=RequestId(request_id), num_tokens=num_tokens, num_pages=num_pages)


def test_the_cheapest_to_redo_go_first() -> None:
    holders = [holder(11, 30), holder(12, 10), holder(13, 20)]

    assert propose_victims(ASKER, holders, 2) == (12, 13)


def test_older_requests_and_the_asker_stay() -> None:
    holders = [holder(9, 1), holder(10, 2), holder(11, 30)]

    assert propose_victims(ASKER, holders, 1) == (11,)


def test_of_equals_the_youngest_goes_first() -> None:
    holders = [holder(11, 8), holder(12, 8)]

    assert propose_victims(ASKER, holders, 1) == (12,)


def test_a_cheap_one_that_a_dear_one_makes_superfluous_stays() -> None:
    holders = [holder(11, 10, num_pages=1), holder(12, 50, num_pages=5)]

    assert propose_victims(ASKER, holders, 4) == (12,)


def test_nobody_goes_when_all_would_not_be_enough() -> None:
    holders = [holder(9, 100, num_pages=10), holder(11, 10, num_pages=1)]

    assert propose_victims(ASKER, holders, 2) == ()


@given(
    sizes=st.dictionaries(st.integers(0, 20), st.integers(1, 9), max_size=12),
    lacking=st.integers(1, 30),
)
def test_victims_are_younger_just_enough_or_none(sizes: dict[int, int], lacking: int) -> None:
    holders = [holder(number, pages * 4, pages) for number, pages in sizes.items()]

    victims = propose_victims(ASKER, holders, lacking)

    freed = sum(sizes[victim] for victim in victims)
    assert all(victim > ASKER for victim in victims)
    assert len(set(victims)) == len(victims)
    if victims:
        assert freed >= lacking
        assert all(freed - sizes[victim] < lacking for victim in victims)
    else:
        assert sum(pages for number, pages in sizes.items() if number > ASKER) < lacking
