"""Tiles of a microbatch's rows, for kernels that look at pages where they are."""

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from common.messages.entries import NUM_PROMPT, NUM_ROWS, START, Entries
from services.attention_worker.page_plan import Indices, PagePlan

_PROMPT_QUERIES, _DECODE_QUERIES = 64, 16
"""Query heads of one tile: a prompt has many rows, an answer one at a time."""

SPLIT: Final = 512
"""Positions that one program of an answer's row looks at, so that few rows keep a whole GPU busy."""

UNSPLIT: Final = 1 << 30
"""More positions than there are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiles:
    """Rows of one kind: prompts or answers."""

    columns: torch.Tensor
    """int32 `[n, 5]`, see `attend_tiles`"""
    rows: torch.Tensor
    """int32 `[k]`: the rows of all tiles."""
    num_queries: int
    """Of a tile, at most."""
    split: int
    num_splits: int


class TilePlan(PagePlan):
    """How the rows are shared out to tiles, too.

    Prompt and answer positions never share a tile, and each kind is always computed in the same
    way: so a row's bits are the same whoever keeps it company, and when it is recomputed.
    """

    def __init__(
        self,
        entries: Entries,
        page_table: NDArray[np.int32],
        page_size: int,
        num_pages: int,
        device: torch.device,
        *,
        num_repeats: int,
    ) -> None:
        """Lay out a microbatch, see `PagePlan`.

        Args:
            entries: The shard's.
            page_table: The shard's.
            page_size: Tokens of a page.
            num_pages: Pages of the pool.
            device: Where the plan is needed.
            num_repeats: Query heads per KV head.
        """
        super().__init__(entries, page_table, page_size, num_pages, device)
        self.pages = self._there(page_table)
        counts, starts = self._columns[:, NUM_ROWS], self._columns[:, START]
        in_prompt = np.clip(self._columns[:, NUM_PROMPT] - starts, 0, counts)  # [R]
        none = np.zeros_like(counts)
        kinds = (
            (none, in_prompt, _PROMPT_QUERIES),
            (in_prompt, counts - in_prompt, _DECODE_QUERIES),
        )
        tiles = (
            self._tiles(skipped, taken, queries, num_repeats) for skipped, taken, queries in kinds
        )
        self.tiles = tuple(each for each in tiles if len(each.columns))

    def _tiles(self, skipped: Indices, counts: Indices, queries: int, num_repeats: int) -> Tiles:
        """Cut rows of each entry, after those that are skipped.

        Shapes:
            skipped, counts: [R]
        """
        size = max(1, queries // num_repeats)
        num_tiles = -(-counts // size)
        entry = np.arange(len(counts)).repeat(num_tiles)  # [n]
        offset = (np.arange(len(entry)) - (num_tiles.cumsum() - num_tiles)[entry]) * size
        start = self._columns[entry, START]
        position = start + skipped[entry] + offset
        rows = np.minimum(size, counts[entry] - offset)
        limit = np.where(self._local[entry], start, UNSPLIT)
        first_row = self._first_rows[entry] + skipped[entry] + offset
        columns = np.stack([first_row, rows, position, limit, self._first_cells[entry]], axis=1)
        is_split = queries == _DECODE_QUERIES
        longest = int((position + rows).max(initial=1))
        return Tiles(
            columns=self._there(columns.astype(np.int32)),
            rows=self._there((first_row.repeat(rows) + _count_up(rows)).astype(np.int32)),
            num_queries=1 << (size * num_repeats - 1).bit_length()
            if size * num_repeats > 16
            else 16,
            split=SPLIT if is_split else UNSPLIT,
            num_splits=-(-longest // SPLIT) if is_split else 1,
        )


def _count_up(counts: Indices) -> Indices:
    """Count from 0 up to each count.

    Shapes:
        counts: [n] -> [sum of the counts]
    """
    starts = counts.cumsum() - counts
    numbers: Indices = np.arange(counts.sum()) - starts.repeat(counts)
    return numbers
