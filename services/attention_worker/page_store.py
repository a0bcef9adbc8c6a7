"""The page pool's memory: K and V of all layers, read and written by slot."""

import torch

from common.errors import PoolTooLarge
from services.attention_worker.cache_shape import CacheShape
from services.attention_worker.torch_tensor import TO_TORCH


class PageStore:
    """Keys and values of every slot; slot `page * page_size + i` is token i of a page.

    A head's tokens lie next to each other, so that a page of a head is one stretch of memory.
    """

    def __init__(self, shape: CacheShape, num_pages: int) -> None:
        """Allocate the pool and touch all of it, so that running out shows at start.

        Raises:
            PoolTooLarge: The system does not give that much memory.
        """
        self.shape = shape
        self.num_pages = num_pages
        num_slots = num_pages * shape.page_size
        size = (2, shape.num_layers, shape.num_kv_heads, num_slots, shape.head_size)
        try:
            # Unlike `torch.zeros`, filling touches the memory.
            pool = torch.empty(size, dtype=TO_TORCH[shape.dtype]).fill_(0)
        except RuntimeError as error:
            size_bytes = num_pages * shape.bytes_per_page
            message = f"{num_pages} pages need {size_bytes} bytes, which the system refuses"
            raise PoolTooLarge(message) from error
        self._keys, self._values = pool.unbind()  # [L, G, slots, D]
        self._head_starts = torch.arange(shape.num_kv_heads) * num_slots
        # Buffers that stay: fresh ones of this size cost more in page faults than the copy itself.
        self._stretches = torch.empty(0, dtype=pool.dtype)
        self._key_tiles, self._value_tiles = torch.empty(0), torch.empty(0)

    def clear(self, layer: int, pages: torch.Tensor) -> None:
        """Zero pages of a layer: leftovers may be NaN, and zero times NaN is NaN.

        Shapes:
            pages: [P]
        """
        for cache in (self._keys, self._values):
            by_page = cache[layer].view(self.shape.num_kv_heads, self.num_pages, -1)
            by_page[:, pages] = 0

    def write(
        self, layer: int, slots: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
    ) -> None:
        """Put the keys and values of some tokens into their slots.

        Shapes:
            slots: [T]
            keys, values: [T, G, D]
        """
        dtype = self._keys.dtype
        self._keys[layer][:, slots] = keys.transpose(0, 1).to(dtype)
        self._values[layer][:, slots] = values.transpose(0, 1).to(dtype)

    def gather(
        self, layer: int, runs: torch.Tensor, run_length: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Copy key tiles and value tiles out of the pages, as float32; good until the next call.

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
        for cache, tiles in ((self._keys, self._key_tiles), (self._values, self._value_tiles)):
            stretches = cache[layer].view(-1, run_length * self.shape.head_size)
            self._stretches.resize_(len(index), stretches.shape[1])
            torch.index_select(stretches, 0, index, out=self._stretches)
            tiles.resize_(num_tiles, tile_length, self.shape.head_size)
            tiles.copy_(self._stretches.view_as(tiles))
        return self._key_tiles, self._value_tiles
