"""The page pool of one attention worker."""

from collections.abc import Iterator

import pytest

from common.errors import OutOfPages
from common.ids import Epoch, RequestId, WorkerId
from common.policy.preemption import Holder
from services.kv_manager.page_pool import PagePool

A, B = RequestId(1), RequestId(2)


@pytest.fixture
def pool() -> Iterator[PagePool]:
    pool = PagePool(WorkerId("cpu-0"), Epoch(7), num_pages=4, page_size=16)
    yield pool
    pool.check()


def test_a_table_grows_by_the_pages_it_lacks(pool: PagePool) -> None:
    first = pool.grow(A, 16, 40)
    second = pool.grow(A, 17, 40)
    third = pool.grow(A, 32, 40)

    assert (first, second, third) == ((0,), (1,), ())


def test_two_requests_never_share_a_page(pool: PagePool) -> None:
    assert pool.grow(A, 20, 20) == (0, 1)
    assert pool.grow(B, 20, 20) == (2, 3)


def test_a_refusal_leaves_the_pool_as_it_was(pool: PagePool) -> None:
    pool.grow(A, 40, 40)

    with pytest.raises(OutOfPages) as refusal:
        pool.grow(B, 20, 20)

    assert (refusal.value.needed, refusal.value.free) == (2, 1)
    assert (pool.num_free, pool.expected_tokens) == (1, 40)
    assert [holder.request_id for holder in pool.holders()] == [A]


def test_released_pages_are_granted_again(pool: PagePool) -> None:
    pool.grow(A, 20, 20)
    pool.grow(B, 20, 20)

    pool.release(A)

    assert pool.num_free == 2
    assert pool.grow(B, 64, 64) == (0, 1)


def test_a_smaller_wish_takes_nothing_back(pool: PagePool) -> None:
    pool.grow(A, 40, 40)

    assert pool.grow(A, 10, 40) == ()
    assert list(pool.holders()) == [Holder(request_id=A, num_tokens=40, num_pages=3)]


def test_expected_tokens_follow_what_requests_say(pool: PagePool) -> None:
    pool.grow(A, 10, 50)
    pool.grow(B, 10, 30)
    pool.grow(A, 20, 45)
    pool.release(B)

    assert pool.expected_tokens == 45
