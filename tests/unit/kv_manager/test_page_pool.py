"""The page pool of one attention worker."""

from collections.abc import Iterator

import pytest

from common.errors import OutOfPages
from common.ids import Epoch, RequestId, WorkerId
from common.policy.preemption import Holder
from services.kv_manager.page_pool import PagePool
from services.kv_manager.prefix_index import split_hashes
from tests.support.kv import hashes, reserve

A, B, C = RequestId(1), RequestId(2), RequestId(3)


@pytest.fixture
def pool() -> Iterator[PagePool]:
    pool = PagePool(WorkerId("cpu-0"), Epoch(7), num_pages=4, page_size=16)
    yield pool
    pool.check()


def admit(pool: PagePool, request_id: RequestId, num_tokens: int, expected: int = 0) -> object:
    return pool.admit(reserve(1, request_id, num_tokens, expected or num_tokens), (), ())


def test_a_table_grows_by_the_pages_it_lacks(pool: PagePool) -> None:
    first = admit(pool, A, 16, 40)
    second = pool.grow(reserve(2, A, 17, 40))
    third = pool.grow(reserve(3, A, 32, 40))

    assert (first, second, third) == ((0,), (1,), ())


def test_two_requests_never_share_a_page_that_is_written(pool: PagePool) -> None:
    assert admit(pool, A, 20) == (0, 1)
    assert admit(pool, B, 20) == (2, 3)


def test_a_refusal_leaves_the_pool_as_it_was(pool: PagePool) -> None:
    admit(pool, A, 40)

    with pytest.raises(OutOfPages) as refusal:
        admit(pool, B, 20)

    assert (refusal.value.needed, refusal.value.available) == (2, 1)
    assert (pool.num_available, pool.load_tokens) == (1, 40)
    assert list(pool.tenants()) == [A]


def test_released_pages_are_granted_again(pool: PagePool) -> None:
    admit(pool, A, 20)
    admit(pool, B, 20)

    pool.release(A)

    assert pool.num_available == 2
    assert pool.grow(reserve(3, B, 64)) == (0, 1)


def test_a_smaller_wish_takes_nothing_back(pool: PagePool) -> None:
    admit(pool, A, 40)

    assert pool.grow(reserve(2, A, 10, 40)) == ()
    assert pool.lacking(A, 48) == 0


def test_load_and_growth_follow_what_requests_say(pool: PagePool) -> None:
    admit(pool, A, 10, 50)
    admit(pool, B, 10, 30)
    pool.grow(reserve(3, A, 20, 45))
    pool.release(B)

    assert (pool.load_tokens, pool.growth_pages) == (45, 1)


def test_a_victim_costs_and_frees_what_is_its_own(pool: PagePool) -> None:
    both = hashes("a", "b")
    admit(pool, A, 32)
    pool.seal(A, 0, both)
    pool.admit(reserve(2, B, 48), pool.find(split_hashes(both)), split_hashes(both))

    younger = list(pool.holders_younger_than(A))

    assert younger == [Holder(request_id=B, num_tokens=16, num_pages=1)]


def test_found_pages_are_no_longer_available(pool: PagePool) -> None:
    page = hashes("a")
    admit(pool, A, 16)
    pool.seal(A, 0, page)
    pool.release(A)
    found = pool.find(split_hashes(page))

    with pytest.raises(OutOfPages):
        pool.admit(reserve(2, B, 80), found, split_hashes(page))

    assert pool.num_available == 4
    assert pool.admit(reserve(3, B, 64), found, split_hashes(page)) == (0, 1, 2, 3)
