"""Takes the page pool's memory from the system, in huge pages where that is allowed."""

import mmap
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

from common.errors import PoolTooLarge


def allocate_pool(size_bytes: int) -> NDArray[np.uint8]:
    """Take zeroed memory and touch all of it, from the node that this thread runs on.

    Raises:
        PoolTooLarge: The system does not give that much memory.
    """
    try:
        pool = mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except (OSError, OverflowError, ValueError) as error:
        raise PoolTooLarge(
            f"the pool needs {size_bytes} bytes, which the system refuses: give less --kv-memory"
        ) from error
    with suppress(OSError):  # then pages are small: slower, not wrong
        pool.madvise(mmap.MADV_HUGEPAGE)
    memory = np.frombuffer(pool, np.uint8)
    memory[:: mmap.PAGESIZE] = 0
    return memory
