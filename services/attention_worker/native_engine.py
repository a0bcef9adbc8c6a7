"""The engine whose attention is compiled: `kernels/` writes, attends and lays out the pages."""

import weakref
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from common.errors import PoolTooLarge
from common.messages import Tensor
from common.messages.entries import Entries, num_rows
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
        self._pool = allocate_pool(num_pages * self.bytes_per_page(shape))
        cache = NativeCache.of(shape)
        cache.memory, cache.num_pages, cache.num_heads = (
            self._pool.ctypes.data,
            num_pages,
            num_heads,
        )
        engine = library.open(cache, machine.instruction_set, machine.num_threads, machine.cpus)
        if engine is None:
            raise PoolTooLarge(f"{machine.num_threads} threads find no memory beside the pool")
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
            log_sums: `[T, H]`, gets the logarithm of the sum of the exponentials of the scores: with
                it, results on disjoint keys can be merged.
        """
        shape = self._shape
        if entries.shape[1:] != (6,) or page_table.ndim != 1:
            check_microbatch(entries, page_table, shape.page_size, self._num_pages)
        heads = self._num_heads + 2 * shape.num_kv_heads
        rows = num_rows(entries)
        refuse_qkv(qkv, (rows, heads * shape.head_size), layer, shape.num_layers)
        width = self._num_heads * shape.head_size
        output = np.empty(rows * width * DTYPE_BYTES[qkv.dtype], np.uint8)
        # Received memory may be unaligned; the small tables are copied then.
        entries, page_table = (
            np.require(each, np.int32, ["C", "A"]) for each in (entries, page_table)
        )
        microbatch = NativeMicrobatch(
            entries=entries.ctypes.data,
            num_entries=len(entries),
            page_table=page_table.ctypes.data,
            num_cells=len(page_table),
            qkv=np.frombuffer(qkv.memory, np.uint8).ctypes.data,
            num_rows=rows,
            output=output.ctypes.data,
            log_sums=None if log_sums is None else log_sums.ctypes.data,
            dtype=DTYPES[qkv.dtype],
            layer=layer,
            window=self._windows[layer] or 0,
        )
        outcome = self._library.attend(self._engine, microbatch)
        if outcome == REFUSED:
            check_microbatch(entries, page_table, shape.page_size, self._num_pages)
        if outcome != DONE:
            raise MemoryError("no room beside the pool for the splits of long contexts")
        return Tensor(dtype=qkv.dtype, shape=(rows, width), memory=output.data)

    @property
    def size_bytes(self) -> int:
        """Bytes of the pool."""
        return self._pool.nbytes

    def read(self) -> None:
        """Have all threads read the pool once, to measure how fast that is."""
        self._library.read(self._engine)
