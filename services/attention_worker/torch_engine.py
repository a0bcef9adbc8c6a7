"""The engine that any machine can have: attention in plain torch."""

from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from common.messages import Tensor
from common.messages.entries import Entries
from services.attention_worker.attention import attend
from services.attention_worker.cache_shape import CacheShape
from services.attention_worker.checks import refuse_qkv
from services.attention_worker.machine import Machine
from services.attention_worker.page_store import PageStore
from services.attention_worker.plan import AttentionPlan
from services.attention_worker.torch_tensor import from_torch, to_torch

_MAX_PLANS = 64
"""Plans that are kept; more than the microbatches that are usually in flight."""


class TorchEngine:
    """An `AttentionEngine`. Not thread-safe."""

    def __init__(
        self,
        machine: Machine,
        shape: CacheShape,
        num_pages: int,
        num_heads: int,
        windows: Sequence[int | None],
    ) -> None:
        """Allocate the pool; see `EngineType`."""
        torch.set_num_threads(machine.num_threads)
        self._store = PageStore(shape, num_pages)
        self._num_heads = num_heads
        self._windows = tuple(windows)
        self._plans: OrderedDict[tuple[bytes, bytes], AttentionPlan] = OrderedDict()

    @staticmethod
    def bytes_per_page(shape: CacheShape) -> int:
        """Give the memory that one page takes."""
        return shape.bytes_per_page

    @torch.inference_mode()
    def attend(
        self,
        layer: int,
        entries: Entries,
        page_table: NDArray[np.int32],
        qkv: Tensor,
        log_sums: NDArray[np.float32] | None = None,
    ) -> Tensor:
        """Write a shard's keys and values of one layer, then let its rows attend."""
        plan = self._plan(entries, page_table)
        shape = self._store.shape
        heads = [self._num_heads, shape.num_kv_heads, shape.num_kv_heads]
        refuse_qkv(qkv, (plan.num_rows, sum(heads) * shape.head_size), layer, shape.num_layers)
        by_head = to_torch(qkv).view(-1, sum(heads), shape.head_size)
        queries, keys, values = torch.split(by_head, heads, 1)
        self._put(layer, plan, keys, values)
        output, sums = attend(self._store, layer, plan, self._windows[layer], queries)
        if log_sums is not None:
            log_sums[:] = sums.numpy()
        return from_torch(output.flatten(1))

    @torch.inference_mode()
    def write(
        self, layer: int, entries: Entries, page_table: NDArray[np.int32], kv: Tensor
    ) -> None:
        """Write a shard's keys and values of one layer."""
        plan = self._plan(entries, page_table)
        shape = self._store.shape
        heads = 2 * shape.num_kv_heads
        refuse_qkv(kv, (plan.num_rows, heads * shape.head_size), layer, shape.num_layers)
        keys, values = to_torch(kv).view(-1, heads, shape.head_size).chunk(2, dim=1)
        self._put(layer, plan, keys, values)

    def _put(
        self, layer: int, plan: AttentionPlan, keys: torch.Tensor, values: torch.Tensor
    ) -> None:
        self._store.clear(layer, plan.fresh_pages)
        self._store.write(layer, plan.slots, keys, values)

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
