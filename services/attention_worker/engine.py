"""The attention worker's compute: what an engine does, and which one this machine can have."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from common.messages import Tensor
from common.messages.entries import Entries
from services.attention_worker.cache_shape import CacheShape
from services.attention_worker.machine import Machine


class AttentionEngine(Protocol):
    """Owns a page pool; writes and attends, one microbatch shard and layer at a time."""

    def attend(
        self,
        layer: int,
        entries: Entries,
        page_table: NDArray[np.int32],
        qkv: Tensor,
        log_sums: NDArray[np.float32] | None = None,
    ) -> Tensor:
        """Write a shard's keys and values of one layer, then let its rows attend.

        Rows of local entries attend only to what was before their entry.

        Args:
            layer: Index of the layer.
            entries: The shard's.
            page_table: The shard's.
            qkv: Queries, keys and values, rotated.
            log_sums: Gets the logarithm of the sum of the exponentials of the scores: with it, results
                on disjoint keys can be merged. Minus infinity where a row sees nothing.

        Shapes:
            entries: [R, 6]
            page_table: [N]
            log_sums: [T, H]
            qkv: [T, (H + 2 G) D] -> [T, H D]

        Raises:
            PageFault: A row, page or layer lies outside what was declared. Nothing was written.
        """
        ...

    def write(
        self, layer: int, entries: Entries, page_table: NDArray[np.int32], kv: Tensor
    ) -> None:
        """Write a shard's keys and values of one layer.

        Shapes:
            entries: [R, 6]
            page_table: [N]
            kv: [T, 2 G D]

        Raises:
            PageFault: A row, page or layer lies outside what was declared. Nothing was written.
        """
        ...


class EngineType(Protocol):
    """Makes engines of one kind, and knows what a page takes there."""

    def __call__(
        self,
        machine: Machine,
        shape: CacheShape,
        num_pages: int,
        num_heads: int,
        windows: Sequence[int | None],
    ) -> AttentionEngine:
        """Allocate the pool, and touch all of it, so that running out shows at start.

        Args:
            machine: What to compute with.
            shape: Of the cache.
            num_pages: Pages in the pool.
            num_heads: Query heads, a multiple of the KV heads.
            windows: The attention window of each layer; None sees everything.

        Raises:
            PoolTooLarge: The pool does not fit into memory.
        """
        ...

    def bytes_per_page(self, shape: CacheShape) -> int:
        """Give the memory that one page takes."""
        ...


def engine_type(machine: Machine) -> EngineType:
    """Find the engine that computes with a machine's instruction set."""
    if machine.instruction_set == "triton":
        from services.attention_worker.triton_engine import TritonEngine

        return TritonEngine
    if machine.instruction_set == "gather":
        from services.attention_worker.gather_engine import GatherEngine

        return GatherEngine
    if machine.instruction_set == "torch":
        # Nobody else needs torch here: with the native kernel a worker starts without it.
        from services.attention_worker.torch_engine import TorchEngine

        return TorchEngine
    from services.attention_worker.native_engine import NativeEngine

    return NativeEngine
