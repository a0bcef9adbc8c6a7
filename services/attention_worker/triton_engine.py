"""The engine for GPUs: kernels that look at pages where they are."""

from collections.abc import Sequence

import numpy as np
import torch
import triton
from numpy.typing import NDArray

from common.messages.entries import Entries
from services.attention_worker.cache_shape import CacheShape
from services.attention_worker.device_engine import DeviceEngine
from services.attention_worker.machine import Machine
from services.attention_worker.tile_plan import TilePlan, Tiles
from services.attention_worker.triton_kernels import attend_tiles, merge_splits

_KEYS = 64
"""Positions that a program looks at together."""

_PROMPT_WARPS, _DECODE_WARPS, _STAGES = 4, 2, 3
"""The fastest of nine ways on an H200."""

_NO_WINDOW = 1 << 30


class TritonEngine(DeviceEngine[TilePlan]):
    """A row's bits depend on what it sees alone."""

    def __init__(
        self,
        machine: Machine,
        shape: CacheShape,
        num_pages: int,
        num_heads: int,
        windows: Sequence[int | None],
    ) -> None:
        """Allocate the pool, and compile the kernels: the first request must not wait for them."""
        super().__init__(machine, shape, num_pages, num_heads, windows)
        for num_prompt in (1, 0):
            entries = np.array([(0, 0, 1, 1, num_prompt, 0)], np.int32)
            width = num_heads + 2 * shape.num_kv_heads
            qkv = torch.zeros(1, width, shape.head_size, dtype=self._dtype, device=self._device)
            plan = self.plan(entries, np.zeros(1, np.int32))
            for tiles in plan.tiles:
                self._launch_split(0, plan, tiles, qkv, self._results(qkv))

    def _make_plan(self, entries: Entries, page_table: NDArray[np.int32]) -> TilePlan:
        shape = self._store.shape
        return TilePlan(
            entries,
            page_table,
            shape.page_size,
            self._store.num_pages,
            self._device,
            num_repeats=self._num_heads // shape.num_kv_heads,
        )

    def attend_on_device(
        self, layer: int, plan: TilePlan, qkv: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See `DeviceEngine`."""
        results = self._results(qkv)
        for tiles in plan.tiles:
            if tiles.num_splits == 1:
                self._launch(layer, plan, tiles, qkv, results)
            else:
                self._launch_split(layer, plan, tiles, qkv, results)
        return results

    def _results(self, qkv: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        size = (len(qkv), self._num_heads)
        sums = torch.empty(size, device=self._device)
        return qkv.new_empty(*size, self._store.shape.head_size), sums

    def _launch_split(
        self,
        layer: int,
        plan: TilePlan,
        tiles: Tiles,
        qkv: torch.Tensor,
        results: tuple[torch.Tensor, torch.Tensor],
    ) -> None:
        output, sums = results
        part_sums = sums.new_empty(tiles.num_splits, *sums.shape)
        parts = sums.new_empty(tiles.num_splits, *output.shape)
        self._launch(layer, plan, tiles, qkv, (parts, part_sums))
        num_rows, num_heads, head_size = output.shape
        merge_splits[len(tiles.rows), num_heads](
            tiles.rows,
            parts,
            part_sums,
            output,
            sums,
            tiles.num_splits,
            num_rows,
            NUM_HEADS=num_heads,
            HEAD_SIZE=head_size,
            COLUMNS=triton.next_power_of_2(head_size),
        )

    def _launch(
        self,
        layer: int,
        plan: TilePlan,
        tiles: Tiles,
        qkv: torch.Tensor,
        results: tuple[torch.Tensor, torch.Tensor],
    ) -> None:
        shape = self._store.shape
        keys, values, key_scales, value_scales = self._store.of_layer(layer)
        window = self._windows[layer]
        attend_tiles[len(tiles.columns), shape.num_kv_heads, tiles.num_splits](
            qkv,
            keys,
            values,
            key_scales,
            value_scales,
            tiles.columns,
            plan.pages,
            *results,
            keys.shape[1],
            plan.num_rows,
            _NO_WINDOW if window is None else window,
            shape.head_size**-0.5,
            NUM_HEADS=self._num_heads,
            NUM_KV_HEADS=shape.num_kv_heads,
            HEAD_SIZE=shape.head_size,
            PAGE_SIZE=shape.page_size,
            QUERIES=tiles.num_queries,
            KEYS=_KEYS,
            COLUMNS=max(16, triton.next_power_of_2(shape.head_size)),
            SPLIT=tiles.split,
            SCALED=key_scales is not None,
            num_warps=_PROMPT_WARPS if tiles.num_queries > 16 else _DECODE_WARPS,
            num_stages=_STAGES,
        )
