"""The KV manager and common prefixes: what is sealed, shared, awaited, kept and evicted."""

from collections.abc import Iterator

import pytest

from common.ids import Epoch, MicrobatchId, RequestId
from common.messages import PoolCount, PoolsCounted, PrefixAwaited, RouterHeartbeat
from services.kv_manager.state import KvManagerState
from tests.support.kv import (
    CPU_0,
    CPU_1,
    NEXT_TERM,
    filled,
    granted,
    hashes,
    joined,
    make_state,
    refused,
    release,
    reserve,
    say,
    sent,
)

A, B, C = RequestId(1), RequestId(2), RequestId(3)


@pytest.fixture
def state() -> Iterator[KvManagerState]:
    """A KV manager with one pool of four pages of 16 tokens."""
    state = make_state()
    state.handle(joined(), 0.0)
    yield state
    state.check()


AB, AC = hashes("a", "b"), hashes("a", "c")


def lead(state: KvManagerState, page_hashes: bytes = AB) -> None:
    """Let A move in with two pages, and seal them."""
    state.handle(reserve(1, A, 32, page_hashes=page_hashes), 0.0)
    state.handle(filled(2, A, 0, page_hashes), 0.0)


def test_sealed_pages_are_shared(state: KvManagerState) -> None:
    lead(state)

    answer = say(state, reserve(3, B, 40, page_hashes=AB))

    assert answer == granted(3, B, range(3), num_found=2)


def test_only_the_common_prefix_is_shared(state: KvManagerState) -> None:
    lead(state)

    assert say(state, reserve(3, B, 32, page_hashes=AC)) == granted(3, B, (0, 2), num_found=1)


def test_who_shares_unsealed_pages_waits_for_the_first(state: KvManagerState) -> None:
    state.handle(reserve(1, A, 32, page_hashes=AB), 0.0)

    waiting = say(state, reserve(2, B, 32, page_hashes=AC))
    state.handle(filled(3, A, 0, hashes("a")), 0.0)
    sharing = say(state, reserve(4, B, 32, page_hashes=AC))

    assert waiting == PrefixAwaited(number=2, request_id=B, leader=A, num_pages=1)
    assert sharing == granted(4, B, (0, 2), num_found=1)


def test_who_waits_takes_the_place_of_a_leader_that_is_gone(state: KvManagerState) -> None:
    state.handle(reserve(1, A, 32, page_hashes=AB), 0.0)
    state.handle(release(2, A), 0.0)

    assert say(state, reserve(3, B, 32, page_hashes=AB)) == granted(3, B, range(2))


def test_sealed_pages_outlive_their_requests(state: KvManagerState) -> None:
    lead(state)
    state.handle(release(3, A), 0.0)

    assert say(state, reserve(4, B, 40, page_hashes=AB)) == granted(4, B, range(3), num_found=2)


def test_shared_pages_stay_until_the_last_holder_is_gone(state: KvManagerState) -> None:
    lead(state)
    state.handle(reserve(3, B, 40, page_hashes=AB), 0.0)
    state.handle(release(4, A), 0.0)

    assert say(state, reserve(5, C, 32)) == refused(5, C, needed=2, available=1)


def test_idle_pages_make_room_those_unused_for_the_longest_first(state: KvManagerState) -> None:
    lead(state)
    state.handle(release(3, A), 0.0)

    room = say(state, reserve(4, B, 48))
    state.handle(release(5, B), 0.0)

    assert room == granted(4, B, (1, 2, 3))  # of A's prefix the end went first
    assert say(state, reserve(6, C, 40, page_hashes=AB)) == granted(6, C, range(3), num_found=1)


def test_sealed_pages_are_found_by_the_next_router(state: KvManagerState) -> None:
    lead(state)

    state.handle(NEXT_TERM, 0.0)
    state.handle(joined(), 0.0)

    assert say(state, reserve(1, B, 40, page_hashes=AB)) == granted(1, B, range(3), num_found=2)


def test_a_lost_pool_takes_its_sealed_pages_along(state: KvManagerState) -> None:
    lead(state)

    state.handle(joined(epoch=2), 0.0)

    assert say(state, reserve(3, B, 32, page_hashes=AB)) == granted(3, B, range(2), epoch=2)


def test_what_was_filled_in_an_earlier_stay_seals_nothing(state: KvManagerState) -> None:
    state.handle(reserve(1, A, 32, page_hashes=AB), 0.0)
    state.handle(release(3, A), 0.0)
    state.handle(reserve(4, A, 32, page_hashes=AB, moves_in=True), 0.0)

    state.handle(filled(2, A, 0, AB), 0.0)

    awaited = say(state, reserve(5, B, 32, page_hashes=AB))
    assert awaited == PrefixAwaited(number=5, request_id=B, leader=A, num_pages=2)


def test_equal_pages_of_two_requests_are_indexed_once(state: KvManagerState) -> None:
    state.handle(reserve(1, A, 16), 0.0)
    state.handle(reserve(2, B, 16), 0.0)
    state.handle(filled(3, A, 0, hashes("a")), 0.0)

    state.handle(filled(4, B, 0, hashes("a")), 0.0)
    state.handle(release(5, A), 0.0)

    assert say(state, reserve(6, C, 32, page_hashes=hashes("a"))) == granted(
        6, C, (0, 2), num_found=1
    )


def test_a_common_prefix_draws_requests_to_its_worker(state: KvManagerState) -> None:
    state.handle(joined(CPU_1), 0.0)
    lead(state)

    assert say(state, reserve(3, B, 40, page_hashes=AB)) == granted(3, B, range(3), num_found=2)


def test_balance_overrules_a_prefix(state: KvManagerState) -> None:
    state.handle(joined(CPU_1), 0.0)
    state.handle(reserve(1, A, 32, 200, page_hashes=AB), 0.0)
    state.handle(filled(2, A, 0, AB), 0.0)

    assert say(state, reserve(3, B, 40, page_hashes=AB)) == granted(3, B, range(3), CPU_1)


def test_the_router_is_told_how_full_the_pools_are(state: KvManagerState) -> None:
    lead(state)
    state.handle(reserve(3, B, 40, page_hashes=hashes("a")), 0.0)
    state.handle(reserve(4, C, 16, page_hashes=hashes("a")), 0.0)
    state.handle(release(5, A), 0.0)

    counted, *_ = sent(state.handle(RouterHeartbeat(oldest_live=MicrobatchId(0)), 0.0))

    assert counted == PoolsCounted(
        pools=(PoolCount(worker_id=CPU_0, epoch=Epoch(1), free=0, held=2, shared=1, cached=1),)
    )
