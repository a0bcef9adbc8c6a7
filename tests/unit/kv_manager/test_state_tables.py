"""A KV manager that knows of nobody is told who holds what, and goes on from there."""

from collections.abc import Iterator

import pytest

from common.ids import Epoch, RequestId, WorkerId
from common.messages import (
    Message,
    PageTable,
    PrefixAwaited,
    Registered,
    RouterHeartbeat,
    TablesWanted,
    WorkerReady,
)
from services.kv_manager.state import KvManagerState
from tests.support.kv import (
    CPU_1,
    NEXT_TERM,
    filled,
    granted,
    hashes,
    joined,
    lost,
    make_state,
    refused,
    release,
    reserve,
    say,
    sent,
    table,
    tables,
)

A, B, C = RequestId(1), RequestId(2), RequestId(3)
REGISTERED = Registered(layers=None, attention=None, heartbeat_s=1)
READY = WorkerReady(worker_id=WorkerId("kv"), epoch=Epoch(9), num_pages=0, layers=None)
WANTED = TablesWanted(worker_id=WorkerId("kv"), epoch=Epoch(9))


@pytest.fixture
def state() -> Iterator[KvManagerState]:
    """A registered KV manager with one pool of six pages of 16 tokens."""
    state = make_state()
    state.handle(REGISTERED, 0.0)
    state.handle(joined(num_pages=6), 0.0)
    yield state
    state.check()


def heard(state: KvManagerState, message: Message) -> list[Message]:
    return sent(state.handle(message, 0.0))


def test_it_offers_to_work_once_it_was_told_who_holds_what() -> None:
    state = make_state()

    registered = heard(state, REGISTERED)
    told = heard(state, tables())

    assert registered == [WANTED]
    assert told == [READY]


def test_it_asks_again_with_every_heartbeat_until_it_knows(state: KvManagerState) -> None:
    before = heard(state, RouterHeartbeat(oldest_live=0))
    state.handle(tables(), 0.0)
    after = heard(state, RouterHeartbeat(oldest_live=0))

    assert WANTED in before
    assert WANTED not in after


def test_it_waits_for_all_parts_of_one_answer(state: KvManagerState) -> None:
    first = heard(state, tables(table(A, [0]), number=1, part=0, num_parts=2))
    other = heard(state, tables(table(A, [0]), number=2, part=0, num_parts=2))
    late = heard(state, tables(table(B, [1]), number=1, part=1, num_parts=2))
    last = heard(state, tables(table(C, [2]), number=2, part=1, num_parts=2))

    assert [first, other, late, last] == [[], [], [], [READY]]
    assert say(state, reserve(3, B, 96)) == refused(3, B, needed=6, available=4)


def test_who_holds_pages_goes_on_with_them(state: KvManagerState) -> None:
    state.handle(tables(table(A, [5, 0]), table(B, [2])), 0.0)

    assert say(state, reserve(2, A, 48)) == granted(2, A, [1])
    state.handle(release(3, B), 0.0)
    assert say(state, reserve(4, C, 48)) == granted(4, C, [2, 3, 4])


def test_what_was_sealed_is_found_again(state: KvManagerState) -> None:
    state.handle(tables(table(A, [4, 5], hashes("a", "b"), num_sealed=2)), 0.0)

    grant = say(state, reserve(2, B, 48, page_hashes=hashes("a", "b")))

    assert grant == granted(2, B, [4, 5, 0], num_found=2)


def test_what_a_request_still_fills_is_waited_for(state: KvManagerState) -> None:
    state.handle(tables(table(A, [4, 5], hashes("a", "b"), num_sealed=1)), 0.0)

    awaited = say(state, reserve(2, B, 48, page_hashes=hashes("a", "b")))
    state.handle(filled(3, A, 1, hashes("a", "b")[16:]), 0.0)
    grant = say(state, reserve(4, B, 48, page_hashes=hashes("a", "b")))

    assert awaited == PrefixAwaited(number=2, request_id=B, leader=A, num_pages=2)
    assert grant == granted(4, B, [4, 5, 0], num_found=2)


def test_of_equal_pages_the_one_that_is_shared_is_found(state: KvManagerState) -> None:
    equal = hashes("a")
    told = tables(table(A, [1], equal, 1), table(B, [2], equal, 1), table(C, [2], equal, 1))

    state.handle(told, 0.0)
    state.handle(release(2, B), 0.0)
    state.check()
    grant = say(state, reserve(3, B, 32, page_hashes=equal))

    assert grant == granted(3, B, [2, 0], num_found=1)


@pytest.mark.parametrize(
    "told",
    [
        [table(A, [6])],
        [table(A, [1, 1])],
        [table(A, [1]), table(B, [1])],
        [table(A, [1], hashes("a"), 1), table(B, [1])],
        [table(A, [1], hashes("a"), 1), table(B, [1], hashes("b"), 1)],
        [table(A, [1]), table(A, [2])],
        [table(A, [1], num_tokens=17)],
        [table(A, [1], worker_id=CPU_1)],
    ],
    ids=[
        "beyond the pool",
        "twice in a table",
        "written by two",
        "written where another reads",
        "of two contents",
        "two tables of a request",
        "too few pages",
        "of an unknown pool",
    ],
)
def test_tables_that_cannot_be_change_nothing(state: KvManagerState, told: list[PageTable]) -> None:
    assert heard(state, tables(*told)) == []
    assert heard(state, tables(number=2)) == [READY]
    assert say(state, reserve(3, C, 96)) == granted(3, C, range(6))


def test_tables_of_a_pool_that_was_lost_since_are_passed_over(state: KvManagerState) -> None:
    state.handle(joined(CPU_1, num_pages=6), 0.0)
    state.handle(lost(CPU_1), 0.0)

    told = heard(state, tables(table(A, [1], worker_id=CPU_1), table(B, [0])))

    assert told == [READY]
    assert say(state, reserve(2, A, 80, moves_in=True)) == granted(2, A, range(1, 6))


def test_tables_that_come_late_change_nothing(state: KvManagerState) -> None:
    state.handle(tables(), 0.0)
    state.handle(reserve(2, A, 16), 0.0)

    assert heard(state, tables(table(B, [0]), number=3)) == []
    assert say(state, reserve(4, B, 16)) == granted(4, B, [1])


def test_a_new_term_begins_with_the_tables_of_its_router(state: KvManagerState) -> None:
    state.handle(tables(), 0.0)
    state.handle(reserve(2, A, 16), 0.0)
    state.handle(filled(3, A, 0, hashes("a")), 0.0)

    state.handle(NEXT_TERM, 1.0)
    registered = heard(state, REGISTERED)
    state.handle(joined(num_pages=6), 1.0)
    told = heard(state, tables())

    assert (registered, told) == ([WANTED], [READY])
    again = say(state, reserve(2, B, 32, page_hashes=hashes("a")))
    assert again == granted(2, B, [0, 1], num_found=1)
