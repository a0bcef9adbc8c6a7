"""The page pool's memory: K and V of all layers, read and written by slot."""

from typing import Final

import torch

from common.errors import PoolTooLarge
from services.attention_worker.cache_shape import CacheShape
from services.attention_worker.torch_tensor import TO_TORCH

CPU: Final = torch.device("cpu")

_INT8_MAX = 127


class PageStore:
    """Keys and values of every slot; slot `page * page_size + i` is token i of a page.

    A head's tokens lie next to each other, so that a page of a head is one stretch of memory.
    """

    def __init__(
        self,
        shape: CacheShape,
        num_pages: int,
        *,
        device: torch.device = CPU,
        tile_dtype: torch.dtype = torch.float32,
    ) -> None:
        """Allocate the pool and touch all of it, so that running out shows at start.

        Args:
            shape: Of the cache.
            num_pages: Pages in the pool.
            device: Where they are.
            tile_dtype: Of what is gathered.

        Raises:
            PoolTooLarge: The system does not give that much memory.
        """
        self.shape = shape
        self.num_pages = num_pages
        num_slots = num_pages * shape.page_size
        size = (2, shape.num_layers, shape.num_kv_heads, num_slots, shape.head_size)
        self._scaled = shape.dtype == "int8"
        dtype = torch.int8 if self._scaled else TO_TORCH[shape.dtype]
        try:
            # Unlike `torch.zeros`, filling touches the memory.
            pool = torch.empty(size, dtype=dtype, device=device).fill_(0)
            scales_size = (*size[:4], 1) if self._scaled else (2, 0, 1)
            scales = torch.empty(scales_size, device=device).fill_(0)
        except RuntimeError as error:
            size_bytes = num_pages * shape.bytes_per_page
            message = (
                f"{num_pages} pages need {size_bytes} bytes, which the system refuses: "
                "give less --kv-memory"
            )
            raise PoolTooLarge(message) from error
        # Keys and values, each [L, G, slots, D], and their scales, each [L, G, slots, 1]
        self._caches = tuple(zip(pool.unbind(), scales.unbind(), strict=True))
        self._head_starts = torch.arange(shape.num_kv_heads, device=device) * num_slots
        # Buffers that stay: fresh ones of this size cost more in page faults than the copy itself.
        self._stretches = torch.empty(0, dtype=dtype, device=device)
        self._tiles = tuple(torch.empty(0, dtype=tile_dtype, device=device) for _ in range(2))

    def of_layer(
        self, layer: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """Give a layer's keys, values and, of int8, the scales of both.

        Shapes:
            -> two of [G, slots, D], two of [G, slots, 1]
        """
        (keys, key_scales), (values, value_scales) = self._caches
        if not self._scaled:
            return keys[layer], values[layer], None, None
        return keys[layer], values[layer], key_scales[layer], value_scales[layer]

    def clear(self, layer: int, pages: torch.Tensor) -> None:
        """Zero pages of a layer: leftovers may be NaN, and zero times NaN is NaN.

        Shapes:
            pages: [P]
        """
        for parts in self._caches:
            for part in parts[: 1 + self._scaled]:
                by_page = part[layer].view(self.shape.num_kv_heads, self.num_pages, -1)
                by_page[:, pages] = 0

    def write(
        self, layer: int, slots: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
    ) -> None:
        """Put the keys and values of some tokens into their slots.

        Shapes:
            slots: [T]
            keys, values: [T, G, D]
        """
        for (cache, scales), rows in zip(self._caches, (keys, values), strict=True):
            by_head = rows.transpose(0, 1)  # [G, T, D]
            if self._scaled:
                by_head = by_head.float()
                scale = by_head.abs().amax(-1, keepdim=True) / _INT8_MAX
                scales[layer][:, slots] = scale
                # What is not finite has a scale that shows it.
                by_head = (by_head / scale).nan_to_num(0.0).round()
            cache[layer][:, slots] = by_head.to(cache.dtype)

    def gather(
        self, layer: int, runs: torch.Tensor, run_length: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Copy key tiles and value tiles out of the pages; good until the next call.

        Args:
            layer: Index of the layer.
            runs: Which stretches of slots make up each tile; run r is the slots
                `[r * run_length, (r + 1) * run_length)`.
            run_length: A divisor of the page size.

        Shapes:
            runs: [n, runs per tile] -> two of [n * G, runs per tile * run_length, D]
        """
        starts = self._head_starts // run_length  # [G]
        index = (runs[:, None, :] + starts[:, None]).flatten()
        num_tiles, tile_length = len(runs) * len(starts), runs.shape[1] * run_length
        for (cache, scales), tiles in zip(self._caches, self._tiles, strict=True):
            stretches = cache[layer].view(-1, run_length * self.shape.head_size)
            self._stretches.resize_(len(index), stretches.shape[1])
            torch.index_select(stretches, 0, index, out=self._stretches)
            tiles.resize_(num_tiles, tile_length, self.shape.head_size)
            tiles.copy_(self._stretches.view_as(tiles))
            if self._scaled:
                tiles *= scales[layer].view(-1, run_length)[index].view(num_tiles, tile_length, 1)
        keys, values = self._tiles
        return keys, values
