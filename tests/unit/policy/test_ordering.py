"""In which order ready work is served."""

import pytest

from common.ids import MicrobatchId
from common.policy.ordering import (
    ATTENTION,
    POST_ATTENTION,
    PRE_ATTENTION,
    Depth,
    ReadyQueue,
    deepest_first,
    oldest_first,
)


def depth(layer: int, stage: int, microbatch_id: int) -> Depth:
    return Depth(layer=layer, stage=stage, microbatch_id=MicrobatchId(microbatch_id))


WORK = [
    depth(1, PRE_ATTENTION, 1),
    depth(1, POST_ATTENTION, 4),
    depth(2, PRE_ATTENTION, 3),
    depth(1, ATTENTION, 2),
    depth(1, POST_ATTENTION, 5),
]


@pytest.mark.parametrize(
    ("order", "expected"), [(deepest_first, [3, 4, 5, 2, 1]), (oldest_first, [1, 2, 3, 4, 5])]
)
def test_work_is_served_in_the_order_that_was_chosen(order, expected):
    queue = ReadyQueue(order)
    for each in WORK:
        queue.push(each, each.microbatch_id)

    served = [queue.pop() for _ in WORK]

    assert served == expected


def test_equal_ranks_are_served_as_they_came():
    queue = ReadyQueue()
    for item in "abc":
        queue.push(WORK[0], item)

    served = [queue.pop() for _ in range(3)]

    assert served == ["a", "b", "c"]


def test_unwanted_work_is_gone_and_the_rest_keeps_its_order():
    queue = ReadyQueue()
    for each in WORK:
        queue.push(each, each.microbatch_id)

    queue.keep(lambda microbatch_id: microbatch_id % 2 == 1)

    assert sorted(queue.microbatches()) == [1, 3, 5]
    assert [queue.pop() for _ in range(len(queue))] == [3, 5, 1]
