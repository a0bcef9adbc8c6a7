"""What a microbatch gathers, and who sees what of it: decided once, for all layers."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from common.messages.entries import NUM_ROWS, START, Entries
from services.attention_worker.page_plan import Indices, PagePlan

_CLASSES_PER_DOUBLING: Final = 4
"""Entries of one class of sizes attend together; so at most a fifth of what is gathered is filling."""

_MAX_GATHERED: Final = 1 << 20
"""Slots that are gathered at once."""

_MAX_SCORES: Final = 1 << 26
"""Pairs of a row and a slot that are looked at together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """A few entries with similar numbers of rows and pages: n entries, Q rows, P pages each."""

    pages: torch.Tensor
    """`[n, P]`: an entry's pages, then its last one again and again."""
    rows: torch.Tensor
    """`[n, Q]`: an entry's rows, then its last one again and again."""
    positions: torch.Tensor
    """`[n, Q]`: of the rows."""
    stops: torch.Tensor
    """`[n, Q]`: the first position that a row does not see."""
    cells: torch.Tensor
    """`[k]`: places in `rows` that are no filling."""
    places: torch.Tensor
    """`[k]`: the rows there."""


class GatherPlan(PagePlan):
    """What a microbatch gathers, too."""

    def __init__(
        self,
        entries: Entries,
        page_table: NDArray[np.int32],
        page_size: int,
        num_pages: int,
        device: torch.device,
    ) -> None:
        """Lay out a microbatch, see `PagePlan`."""
        super().__init__(entries, page_table, page_size, num_pages, device)
        self.groups = tuple(self._group(chosen) for chosen in self._similar())

    def _num_seen(self) -> Indices:
        """Give each entry's number of pages that its rows may look into, at least one."""
        stops = self._columns[:, START] + np.where(self._local, 0, self._columns[:, NUM_ROWS])
        return np.maximum(-(-stops // self._page_size), 1)

    def _similar(self) -> Iterator[Indices]:
        """Give the entries that attend together, as many as can be held at once."""
        counts, num_seen = self._columns[:, NUM_ROWS], self._num_seen()
        present = np.flatnonzero(counts)
        classes = np.stack([_size_class(counts[present]), _size_class(num_seen[present])], axis=1)
        for size_class in np.unique(classes, axis=0):
            alike = present[(classes == size_class).all(1)]
            num_slots = int(num_seen[alike].max()) * self._page_size
            num_scores = num_slots * int(counts[alike].max())
            at_once = max(1, min(_MAX_GATHERED // num_slots, _MAX_SCORES // num_scores))
            yield from np.split(alike, range(at_once, len(alike), at_once))

    def _group(self, chosen: Indices) -> Group:
        counts, num_seen = self._columns[chosen, NUM_ROWS], self._num_seen()[chosen]
        offsets = np.minimum(np.arange(counts.max()), counts[:, None] - 1)  # [n, Q]
        positions = self._columns[chosen, START, None] + offsets
        stops = np.where(
            self._local[chosen, None], self._columns[chosen, START, None], positions + 1
        )
        rows = self._first_rows[chosen, None] + offsets
        pages = np.minimum(np.arange(num_seen.max()), num_seen[:, None] - 1)  # [n, P]
        cells = np.flatnonzero(np.arange(counts.max()) < counts[:, None])
        return Group(
            pages=self._there(self._table[self._first_cells[chosen, None] + pages]),
            rows=self._there(rows),
            positions=self._there(positions),
            stops=self._there(stops),
            cells=self._there(cells),
            places=self._there(rows.ravel()[cells]),
        )


def _size_class(sizes: Indices) -> Indices:
    classes: Indices = np.ceil(np.log2(sizes) * _CLASSES_PER_DOUBLING).astype(np.int64)
    return classes
