"""Peers seem to be behind one wire: what left before is in the way of what leaves now."""

import pytest

from common.wire.distance import Distance


def test_a_delay_holds_every_message_up_for_as_long() -> None:
    distance = Distance(0.5)

    assert [distance.arrival_s(10**9, now) for now in (1.0, 1.0, 2.0)] == [1.5, 1.5, 2.5]


def test_a_rate_lets_messages_arrive_one_after_the_other() -> None:
    distance = Distance(0.5, mbit_per_s=8.0)

    arrivals = [
        distance.arrival_s(size, now) for size, now in ((10**6, 1.0), (10**6, 1.0), (0, 9.0))
    ]

    assert arrivals == pytest.approx([2.5, 3.5, 9.5])


@pytest.mark.parametrize(("distance", "is_none"), [(Distance(), True), (Distance(0, 5.0), False)])
def test_without_delay_and_rate_peers_are_where_they_are(distance: Distance, is_none: bool) -> None:
    assert distance.is_none is is_none
