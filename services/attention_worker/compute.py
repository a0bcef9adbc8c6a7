"""The attention worker's work as the state words it: makes the pool, and lets it attend."""

from time import perf_counter

import numpy as np

from common.errors import PoolTooLarge
from common.log import get_logger
from common.messages import AttentionRequest, AttentionRole, Tensor, WriteRequest
from common.messages.entries import NUM_ROWS, has_local, is_local, num_rows
from services.attention_worker.cache_shape import CacheShape
from services.attention_worker.config import AttentionWorkerSettings
from services.attention_worker.engine import AttentionEngine, engine_type
from services.attention_worker.host import huge_page_bytes
from services.attention_worker.machine import Machine
from services.attention_worker.memory import free_bytes_on
from services.attention_worker.work import (
    AllocatePool,
    Attend,
    Attended,
    PoolAllocated,
    Work,
    Write,
    WriteDone,
)

log = get_logger()


class Compute:
    """One engine at a time, made for the role that the router gives. Runs off the loop."""

    def __init__(self, settings: AttentionWorkerSettings, machine: Machine) -> None:
        """Take no memory yet; the first work must be `AllocatePool`."""
        self._settings = settings
        self._machine = machine
        self._make_engine = engine_type(machine)
        self._engine: AttentionEngine | None = None
        self._num_heads = 0

    def __call__(self, work: Work) -> PoolAllocated | Attended | WriteDone:
        """Do one piece of work.

        Raises:
            PoolTooLarge: The pool would not fit into memory, or would hold no page.
            PageFault: A shard does not fit its own entries or the pool. Nothing was written.
        """
        match work:
            case AllocatePool(role=role):
                return PoolAllocated(role=role, num_pages=self._allocate(role))
            case Attend(request=request):
                return self._attend(request)
            case Write(request=request):
                return self._write(request)

    def _allocate(self, role: AttentionRole) -> int:
        self._engine = None  # both pools need not fit at once
        shape = CacheShape(
            num_layers=role.num_layers,
            num_kv_heads=role.num_kv_heads,
            head_size=role.head_size,
            page_size=role.page_size,
            dtype=role.kv_dtype,
        )
        bytes_per_page = self._make_engine.bytes_per_page(shape)
        num_pages = count_pages(
            bytes_per_page,
            role.useful_pages,
            self._settings,
            free_bytes_on(self._machine.device),
        )
        self._num_heads = role.num_heads
        self._engine = self._make_engine(
            self._machine, shape, num_pages, role.num_heads, role.sliding_windows
        )
        log.info(
            "page pool touched",
            num_pages=num_pages,
            size_bytes=num_pages * bytes_per_page,
            huge_page_bytes=huge_page_bytes(),
        )
        return num_pages

    def _attend(self, request: AttentionRequest) -> Attended:
        assert self._engine, "the state computes only once the pool is allocated"
        started_s = perf_counter()
        entries = request.entries.numpy()
        log_sums = None
        if has_local(entries):
            log_sums = np.empty((num_rows(entries), self._num_heads), np.float32)
        output = self._engine.attend(
            request.layer, entries, request.page_table.numpy(), request.qkv, log_sums
        )
        if log_sums is not None:
            log_sums = log_sums[is_local(entries).repeat(entries[:, NUM_ROWS])]
        return Attended(
            request=request,
            output=output,
            log_sums=None if log_sums is None else Tensor.of(log_sums),
            engine_s=perf_counter() - started_s,
        )

    def _write(self, request: WriteRequest) -> WriteDone:
        assert self._engine, "the state computes only once the pool is allocated"
        self._engine.write(
            request.layer, request.entries.numpy(), request.page_table.numpy(), request.kv
        )
        return WriteDone(request=request)


def count_pages(
    bytes_per_page: int, useful_pages: int, settings: AttentionWorkerSettings, free_bytes: int
) -> int:
    """Give the pages that the settings leave room for, but none beyond the useful ones.

    Raises:
        PoolTooLarge: There is not that much memory, or it is too little for a page.
    """
    wanted = settings.kv_memory
    size = int(free_bytes * settings.kv_memory_share) if wanted == "auto" else wanted
    num_pages = min(size // bytes_per_page, useful_pages)
    if num_pages < 1:
        message = f"a page takes {bytes_per_page} bytes, the pool {size}: give more --kv-memory"
        raise PoolTooLarge(message)
    if num_pages * bytes_per_page > free_bytes:
        message = f"--kv-memory asks for {size} bytes, {free_bytes} are free: give less"
        raise PoolTooLarge(message)
    return num_pages
