"""The native page pool's memory."""

import pytest

from common.errors import PoolTooLarge
from services.attention_worker.pool_memory import allocate_pool


def test_a_new_pool_is_zero_and_can_be_written() -> None:
    pool = allocate_pool(10_000)

    pool[-1] = 1

    assert pool.nbytes == 10_000
    assert pool.sum() == 1


@pytest.mark.parametrize("size_bytes", [2**60, 2**70])
def test_memory_that_the_system_refuses_is_an_error_with_its_size(size_bytes: int) -> None:
    with pytest.raises(PoolTooLarge, match=str(size_bytes)):
        allocate_pool(size_bytes)
