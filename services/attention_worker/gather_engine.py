"""The engine for GPUs without a compiler: pages are gathered, and torch's fused attention looks at them."""

from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from common.messages.entries import Entries
from services.attention_worker.device_engine import DeviceEngine
from services.attention_worker.gather_plan import GatherPlan, Group

_ALIGNMENT: Final = 16
"""Numbers to whose multiple a row of the mask begins: GPU kernels ask for it."""


class GatherEngine(DeviceEngine[GatherPlan]):
    """A row's last bits may depend on its company."""

    def _make_plan(self, entries: Entries, page_table: NDArray[np.int32]) -> GatherPlan:
        page_size, num_pages = self._store.shape.page_size, self._store.num_pages
        return GatherPlan(entries, page_table, page_size, num_pages, self._device)

    def attend_on_device(
        self, layer: int, plan: GatherPlan, qkv: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See `DeviceEngine`."""
        queries = qkv[:, : self._num_heads]
        output = torch.empty(queries.shape, dtype=self._dtype, device=self._device)
        sums = torch.empty(queries.shape[:2], device=self._device)
        for group in plan.groups:
            attended, found = self._attend_group(layer, group, queries)
            output[group.places], sums[group.places] = attended[group.cells], found[group.cells]
        return output, sums

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
