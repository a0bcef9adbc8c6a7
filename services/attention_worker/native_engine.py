"""The engine whose attention is compiled: `kernels/` writes, attends and lays out the pages."""

import os
import weakref
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from common.errors import PoolTooLarge
from common.messages import Tensor
from common.messages.entries import NUM_COLUMNS, Entries, num_rows
from common.messages.tensor import DTYPE_BYTES
from services.attention_worker import native_library
from services.attention_worker.cache_shape import CacheShape
from services.attention_worker.checks import check_microbatch, refuse_qkv
from services.attention_worker.machine import Machine
from services.attention_worker.native_library import (
    DONE,
    DTYPES,
    REFUSED,
    NativeCache,
    NativeMicrobatch,
)
from services.attention_worker.pool_memory import allocate_pool


class NativeEngine:
    """An `AttentionEngine`. One call at a time; threads of its own share its work."""

    def __init__(
        self,
        machine: Machine,
        shape: CacheShape,
        num_pages: int,
        num_heads: int,
        windows: Sequence[int | None],
    ) -> None:
        """Allocate the pool; see `EngineType`."""
        library = native_library.load()
        assert library, "a machine without the kernels has another engine"
        self._shape, self._num_pages, self._num_heads = shape, num_pages, num_heads
        self._windows = tuple(windows)
        if machine.cpus:
            # This thread touches the pool, and whoever touches memory first has it on its node.
            os.sched_setaffinity(0, machine.cpus)
        self._pool = allocate_pool(num_pages * self.bytes_per_page(shape))
        cache = NativeCache.of(shape)
        cache.memory, cache.num_pages, cache.num_heads = (
            self._pool.ctypes.data,
            num_pages,
            num_heads,
        )
        engine = library.open(cache, machine.instruction_set, machine.num_threads, machine.cpus)
        if engine is None:
            raise PoolTooLarge(
                f"{machine.num_threads} threads find no memory beside the pool: give less --kv-memory"
            )
        self._library, self._engine = library, engine
        closing = weakref.finalize(self, library.close, engine)
        closing.atexit = False  # a thread may be inside; the process ends anyway

    @staticmethod
    def bytes_per_page(shape: CacheShape) -> int:
        """Give the memory that one page takes."""
        library = native_library.load()
        assert library, "a machine without the kernels has another engine"
        return library.page_bytes(NativeCache.of(shape))

    def attend(
        self,
        layer: int,
        entries: Entries,
        page_table: NDArray[np.int32],
        qkv: Tensor,
        log_sums: NDArray[np.float32] | None = None,
    ) -> Tensor:
        """Write a shard's keys and values of one layer, then let its rows attend.

        Args:
            layer: Index of the layer.
            entries: See `AttentionEngine.attend`, also for the next two.
            page_table: See there.
            qkv: See there.
            log_sums: See there.
        """
        rows = self._admit(layer, entries, page_table, qkv, self._num_heads)
        width = self._num_heads * self._shape.head_size
        output = np.empty(rows * width * DTYPE_BYTES[qkv.dtype], np.uint8)
        microbatch = NativeMicrobatch(
            output=output.ctypes.data,
            log_sums=None if log_sums is None else log_sums.ctypes.data,
            layer=layer,
            window=self._windows[layer] or 0,
        )
        self._call(self._library.attend, microbatch, entries, page_table, qkv)
        return Tensor(dtype=qkv.dtype, shape=(rows, width), memory=output.data)

    def write(
        self, layer: int, entries: Entries, page_table: NDArray[np.int32], kv: Tensor
    ) -> None:
        """Write a shard's keys and values of one layer; see `AttentionEngine.write`."""
        self._admit(layer, entries, page_table, kv, 0)
        self._call(self._library.write, NativeMicrobatch(layer=layer), entries, page_table, kv)

    def _admit(
        self,
        layer: int,
        entries: Entries,
        page_table: NDArray[np.int32],
        rows: Tensor,
        num_heads: int,
    ) -> int:
        """Refuse what does not have the shapes that it declares; give the number of rows."""
        shape = self._shape
        if entries.shape[1:] != (NUM_COLUMNS,) or page_table.ndim != 1:
            check_microbatch(entries, page_table, shape.page_size, self._num_pages)
        expected = (num_rows(entries), (num_heads + 2 * shape.num_kv_heads) * shape.head_size)
        refuse_qkv(rows, expected, layer, shape.num_layers)
        return expected[0]

    def _call(
        self,
        function: Callable[[int, NativeMicrobatch], int],
        microbatch: NativeMicrobatch,
        entries: Entries,
        page_table: NDArray[np.int32],
        rows: Tensor,
    ) -> None:
        """Hand a shard to the kernels.

        Raises:
            PageFault: It does not fit its own entries or the pool. Nothing was written.
            MemoryError: There is no room for scratch.
        """
        # Received memory may be unaligned; the small tables are copied then.
        entries, page_table = _laid_out(entries), _laid_out(page_table)
        microbatch.entries, microbatch.num_entries = entries.ctypes.data, len(entries)
        microbatch.page_table, microbatch.num_cells = page_table.ctypes.data, len(page_table)
        microbatch.qkv = np.frombuffer(rows.memory, np.uint8).ctypes.data
        microbatch.num_rows, microbatch.dtype = rows.shape[0], DTYPES[rows.dtype]
        outcome = function(self._engine, microbatch)
        if outcome == REFUSED:
            check_microbatch(entries, page_table, self._shape.page_size, self._num_pages)
        if outcome != DONE:
            raise MemoryError("no room beside the pool for the splits of long contexts")

    @property
    def size_bytes(self) -> int:
        """Bytes of the pool."""
        return self._pool.nbytes

    def read(self) -> None:
        """Have all threads read the pool once, to measure how fast that is."""
        self._library.read(self._engine)


def _laid_out(numbers: NDArray[np.int32]) -> NDArray[np.int32]:
    """Give numbers as the kernels read them; `np.require` takes as long as a small shard."""
    flags = numbers.flags
    if flags.c_contiguous and flags.aligned and numbers.dtype == np.int32:
        return numbers
    return np.require(numbers, np.int32, ["C", "A"])
