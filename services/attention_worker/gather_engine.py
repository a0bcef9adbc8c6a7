"""The engine for GPUs: pages are gathered, and torch's fused attention looks at them."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from common.messages import Tensor
from common.messages.entries import Entries
from services.attention_worker.cache_shape import CacheShape
from services.attention_worker.checks import refuse_qkv
from services.attention_worker.gather_plan import GatherPlan, Group
from services.attention_worker.machine import Machine
from services.attention_worker.page_store import PageStore
from services.attention_worker.torch_tensor import TO_TORCH, from_torch, to_torch

_MAX_PLANS: Final = 64
"""Plans that are kept; more than the microbatches that are usually in flight."""

_ALIGNMENT: Final = 16
"""Numbers to whose multiple a row of the mask begins: GPU kernels ask for it."""


class GatherEngine:
    """An `AttentionEngine`. Not thread-safe. A row's last bits may depend on its company."""

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
        dtype = torch.bfloat16 if shape.dtype == "int8" else TO_TORCH[shape.dtype]
        self._store = PageStore(shape, num_pages, device=self._device, tile_dtype=dtype)
        self._dtype = dtype
        self._num_heads = num_heads
        self._windows = tuple(windows)
        self._plans: OrderedDict[tuple[bytes, bytes], GatherPlan] = OrderedDict()

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
        arrived = to_torch(qkv).to(self._device)
        by_head = arrived.view(-1, sum(heads), shape.head_size)
        queries, keys, values = torch.split(by_head, heads, 1)
        self._put(layer, plan, keys, values)
        output = torch.empty(queries.shape, dtype=self._dtype, device=self._device)
        sums = torch.empty(queries.shape[:2], device=self._device)
        for group in plan.groups:
            attended, found = self._attend_group(layer, group, queries.to(self._dtype))
            output[group.places], sums[group.places] = attended[group.cells], found[group.cells]
        if log_sums is not None:
            log_sums[:] = sums.cpu().numpy()
        return from_torch(output.flatten(1).to(arrived.dtype).cpu())

    @torch.inference_mode()
    def write(
        self, layer: int, entries: Entries, page_table: NDArray[np.int32], kv: Tensor
    ) -> None:
        """Write a shard's keys and values of one layer."""
        plan = self._plan(entries, page_table)
        shape = self._store.shape
        heads = 2 * shape.num_kv_heads
        refuse_qkv(kv, (plan.num_rows, heads * shape.head_size), layer, shape.num_layers)
        arrived = to_torch(kv).to(self._device).view(-1, heads, shape.head_size)
        self._put(layer, plan, *arrived.chunk(2, dim=1))

    def _put(self, layer: int, plan: GatherPlan, keys: torch.Tensor, values: torch.Tensor) -> None:
        self._store.clear(layer, plan.fresh_pages)
        self._store.write(layer, plan.slots, keys, values)

    def _plan(self, entries: Entries, page_table: NDArray[np.int32]) -> GatherPlan:
        """Find the plan that an earlier layer made, by content, so that a stale one is never used."""
        key = (entries.tobytes(), page_table.tobytes())
        if key not in self._plans:
            page_size, num_pages = self._store.shape.page_size, self._store.num_pages
            self._plans[key] = GatherPlan(entries, page_table, page_size, num_pages, self._device)
            if len(self._plans) > _MAX_PLANS:
                self._plans.popitem(last=False)
        self._plans.move_to_end(key)
        return self._plans[key]

    def _attend_group(
        self, layer: int, group: Group, queries: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Let the rows of a group attend; the heads that share keys stand in line as rows.

        Shapes:
            queries: [T, H, D] -> [n Q, H, D], and the logarithms of the sums, float32 [n Q, H]
        """
        num_kv_heads, head_size = self._store.shape.num_kv_heads, self._store.shape.head_size
        num_entries, num_rows = group.rows.shape
        tiles = self._store.gather(layer, group.pages, self._store.shape.page_size)
        keys, values = (each.view(num_entries, num_kv_heads, -1, head_size) for each in tiles)
        by_head = queries[group.rows].view(num_entries, num_rows, num_kv_heads, -1, head_size)
        stacked = by_head.permute(0, 2, 3, 1, 4).flatten(2, 3)  # [n, G, (H/G) Q, D]
        bias = self._bias(layer, group, keys.shape[2], stacked.shape[2] // num_rows)
        attended, sums = _fused(stacked, keys, values, bias)
        sums = sums.masked_fill(sums < torch.finfo(self._dtype).min / 4, -torch.inf)
        apart = (num_entries, num_kv_heads, -1, num_rows)
        attended = attended.reshape(*apart, head_size).permute(0, 3, 1, 2, 4)
        sums = sums.reshape(apart).permute(0, 3, 1, 2)
        return attended.reshape(-1, self._num_heads, head_size), sums.reshape(-1, self._num_heads)

    def _bias(self, layer: int, group: Group, num_keys: int, num_repeats: int) -> torch.Tensor:
        """Hide what rows must not see, by a number so low that it outweighs every score.

        It is finite, so that a row that sees nothing at all gives no NaN.

        Shapes:
            -> [n, 1, (H/G) Q, L]
        """
        keys = torch.arange(num_keys, device=self._device)
        hidden = keys >= group.stops[:, :, None]  # [n, Q, L]
        if (window := self._windows[layer]) is not None:
            hidden |= keys <= group.positions[:, :, None] - window
        num_aligned = -(-num_keys // _ALIGNMENT) * _ALIGNMENT
        num_entries, num_rows = group.rows.shape
        bias = torch.zeros(
            (num_entries, num_repeats, num_rows, num_aligned),
            dtype=self._dtype,
            device=self._device,
        )
        bias[..., :num_keys].masked_fill_(hidden[:, None], torch.finfo(self._dtype).min / 2)
        return bias.flatten(1, 2)[:, None, :, :num_keys]


def _fused(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, bias: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attend by the device's kernel that also tells the sums.

    Shapes:
        queries: [n, G, Q, D]; keys, values: [n, G, L, D]; bias: [n, 1, Q, L]
        -> [n, G, Q, D], float32 [n, G, Q]
    """
    if queries.device.type == "cpu":
        attended, sums = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            queries, keys, values, 0.0, False, attn_mask=bias
        )
        return attended, sums
    bias = bias.expand(-1, queries.shape[1], -1, -1)
    attended, sums, *_ = torch.ops.aten._scaled_dot_product_efficient_attention(
        queries, keys, values, bias, True
    )
    return attended, sums[:, :, : queries.shape[2]]
