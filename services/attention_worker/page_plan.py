"""Where a microbatch's rows belong in the pool of a GPU: decided once, for all layers."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from common.messages.entries import NUM_PAGES, NUM_ROWS, START, Entries, is_local
from services.attention_worker.checks import check_microbatch

Indices = NDArray[np.int64]


class PagePlan:
    """The index tensors of one microbatch, on the device."""

    def __init__(
        self,
        entries: Entries,
        page_table: NDArray[np.int32],
        page_size: int,
        num_pages: int,
        device: torch.device,
    ) -> None:
        """Lay out a microbatch.

        Raises:
            PageFault: A row lies outside its table, or a page outside the pool.
        """
        check_microbatch(entries, page_table, page_size, num_pages)
        self._columns = entries.astype(np.int64)
        self._local = is_local(entries)
        self._table = page_table.astype(np.int64)
        self._page_size = page_size
        self._device = device
        counts = self._columns[:, NUM_ROWS]
        self._first_rows = counts.cumsum() - counts  # [R]
        sizes = self._columns[:, NUM_PAGES]
        self._first_cells = sizes.cumsum() - sizes  # [R]
        self.num_rows = int(counts.sum())
        slots = self._slots()
        self.slots = self._there(slots)
        """`[T]`: where each row's key and value belong."""
        fresh = slots[slots % page_size == 0] // page_size
        self.fresh_pages = self._there(fresh) if len(fresh) else None
        """Pages that get their first token."""

    def _slots(self) -> Indices:
        counts = self._columns[:, NUM_ROWS]
        offsets = np.arange(self.num_rows) - self._first_rows.repeat(counts)
        positions = self._columns[:, START].repeat(counts) + offsets  # [T]
        cells = self._first_cells.repeat(counts) + positions // self._page_size
        slots: Indices = self._table[cells] * self._page_size + positions % self._page_size
        return slots

    def _there(self, array: NDArray[Any]) -> torch.Tensor:
        return torch.from_numpy(array).to(self._device)
