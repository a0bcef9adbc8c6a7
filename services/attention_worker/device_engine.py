"""What the engines in torch have in common: a pool on a device, and plans kept for all layers."""

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final, Generic, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from common.messages import Tensor
from common.messages.entries import Entries
from services.attention_worker.cache_shape import CacheShape
from services.attention_worker.checks import refuse_qkv
from services.attention_worker.machine import Machine
from services.attention_worker.page_store import PageStore
from services.attention_worker.torch_tensor import TO_TORCH, from_torch, to_torch

_MAX_PLANS: Final = 64
"""Plans that are kept; more than the microbatches that are usually in flight."""


class LaidOut(Protocol):
    """Where a microbatch's rows belong."""

    @property
    def num_rows(self) -> int:
        """Token rows of the microbatch."""
        ...

    @property
    def slots(self) -> torch.Tensor:
        """`[T]`: where each row's key and value belong."""
        ...

    @property
    def fresh_pages(self) -> torch.Tensor | None:
        """Pages that get their first token."""
        ...


Plan = TypeVar("Plan", bound=LaidOut)


class DeviceEngine(ABC, Generic[Plan]):
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
        self._device = torch.device(machine.device)
        self._dtype = self._compute_dtype(shape)
        self._store = PageStore(shape, num_pages, device=self._device, tile_dtype=self._dtype)
        self._num_heads = num_heads
        self._windows = tuple(windows)
        self._plans: OrderedDict[tuple[bytes, bytes], Plan] = OrderedDict()

    @staticmethod
    def bytes_per_page(shape: CacheShape) -> int:
        """Give the memory that one page takes."""
        return shape.bytes_per_page

    @staticmethod
    def _compute_dtype(shape: CacheShape) -> torch.dtype:
        """Give the dtype that queries, keys and values meet in."""
        return torch.bfloat16 if shape.dtype == "int8" else TO_TORCH[shape.dtype]

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
        plan = self.plan(entries, page_table)
        shape = self._store.shape
        heads = [self._num_heads, shape.num_kv_heads, shape.num_kv_heads]
        refuse_qkv(qkv, (plan.num_rows, sum(heads) * shape.head_size), layer, shape.num_layers)
        arrived = to_torch(qkv).to(self._device)
        by_head = arrived.view(-1, sum(heads), shape.head_size)
        _, keys, values = torch.split(by_head, heads, 1)
        self._put(layer, plan, keys, values)
        output, sums = self.attend_on_device(layer, plan, by_head.to(self._dtype))
        if log_sums is not None:
            log_sums[:] = sums.cpu().numpy()
        return from_torch(output.flatten(1).to(arrived.dtype).cpu())

    @torch.inference_mode()
    def write(
        self, layer: int, entries: Entries, page_table: NDArray[np.int32], kv: Tensor
    ) -> None:
        """Write a shard's keys and values of one layer."""
        plan = self.plan(entries, page_table)
        shape = self._store.shape
        heads = 2 * shape.num_kv_heads
        refuse_qkv(kv, (plan.num_rows, heads * shape.head_size), layer, shape.num_layers)
        arrived = to_torch(kv).to(self._device).view(-1, heads, shape.head_size)
        self._put(layer, plan, *arrived.chunk(2, dim=1))

    @abstractmethod
    def _make_plan(self, entries: Entries, page_table: NDArray[np.int32]) -> Plan:
        """Lay out a microbatch.

        Raises:
            PageFault: A row lies outside its table, or a page outside the pool.
        """

    @abstractmethod
    def attend_on_device(
        self, layer: int, plan: Plan, qkv: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Let all rows attend, once their keys and values are written.

        Shapes:
            qkv: [T, H + 2 G, D] -> [T, H, D], float32 [T, H]
        """

    def _put(self, layer: int, plan: Plan, keys: torch.Tensor, values: torch.Tensor) -> None:
        if plan.fresh_pages is not None:
            self._store.clear(layer, plan.fresh_pages)
        self._store.write(layer, plan.slots, keys, values)

    def plan(self, entries: Entries, page_table: NDArray[np.int32]) -> Plan:
        """Find the plan that an earlier layer made, by content, so that a stale one is never used."""
        key = (entries.tobytes(), page_table.tobytes())
        if key not in self._plans:
            self._plans[key] = self._make_plan(entries, page_table)
            if len(self._plans) > _MAX_PLANS:
                self._plans.popitem(last=False)
        self._plans.move_to_end(key)
        return self._plans[key]
