"""The attention worker's compute: one page store, and the work on it. Runs off the loop."""

from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from common.errors import PageFault
from common.messages.entries import Entries
from services.attention_worker.attention import attend
from services.attention_worker.cache_shape import CacheShape
from services.attention_worker.page_store import PageStore
from services.attention_worker.plan import AttentionPlan

_MAX_PLANS = 64
"""Plans that are kept; more than the microbatches that are usually in flight."""


class AttentionEngine:
    """Writes and attends, one microbatch shard and layer at a time. Not thread-safe."""

    def __init__(
        self, shape: CacheShape, num_pages: int, num_heads: int, windows: Sequence[int | None]
    ) -> None:
        """Allocate the pool.

        Args:
            shape: Of the cache.
            num_pages: Pages in the pool.
            num_heads: Query heads, a multiple of the KV heads.
            windows: The attention window of each layer; None sees everything.

        Raises:
            PoolTooLarge: The pool does not fit into memory.
        """
        self._store = PageStore(shape, num_pages)
        self._num_heads = num_heads
        self._windows = tuple(windows)
        self._plans: OrderedDict[tuple[bytes, bytes], AttentionPlan] = OrderedDict()

    def attend(
        self, layer: int, entries: Entries, page_table: NDArray[np.int32], qkv: torch.Tensor
    ) -> torch.Tensor:
        """Write a shard's keys and values of one layer, then let its rows attend.

        Shapes:
            entries: [R, 6]
            page_table: [N]
            qkv: [T, (H + 2 G) D] -> [T, H D]

        Raises:
            PageFault: A row, page or layer lies outside what was declared. Nothing was written.
        """
        plan = self._plan(entries, page_table)
        shape = self._store.shape
        heads = [self._num_heads, shape.num_kv_heads, shape.num_kv_heads]
        expected = (plan.num_rows, sum(heads) * shape.head_size)
        if qkv.shape != expected or not 0 <= layer < shape.num_layers:
            message = (
                f"layer {layer} of {shape.num_layers} got q, k and v of shape "
                f"{tuple(qkv.shape)}, its entries declare {expected}"
            )
            raise PageFault(message)
        queries, keys, values = torch.split(qkv.view(-1, sum(heads), shape.head_size), heads, 1)
        self._store.clear(layer, plan.fresh_pages)
        self._store.write(layer, plan.slots, keys, values)
        return attend(self._store, layer, plan, self._windows[layer], queries).flatten(1)

    def _plan(self, entries: Entries, page_table: NDArray[np.int32]) -> AttentionPlan:
        """Find the plan that an earlier layer made, by content, so that a stale one is never used."""
        key = (entries.tobytes(), page_table.tobytes())
        if key not in self._plans:
            shape = self._store.shape
            self._plans[key] = AttentionPlan(
                entries, page_table, shape.page_size, self._store.num_pages
            )
            if len(self._plans) > _MAX_PLANS:
                self._plans.popitem(last=False)
        self._plans.move_to_end(key)
        return self._plans[key]
