"""Which rows attend to which slots, in what order: decided once per microbatch, for all layers.

Query rows are cut into tiles of consecutive positions and keys into tiles of `KEY_TILE` positions,
both aligned to absolute positions: prompt positions in tiles of `PROMPT_TILE`, generated ones each
alone. So a row always meets the same tiles in the same order, and its bits depend neither on the
batch nor on the pages nor on how a prompt was cut into chunks.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import gcd

import numpy as np
import torch
from numpy.typing import NDArray

from common.messages.entries import NUM_PAGES, NUM_PROMPT, NUM_ROWS, START, Entries, is_local
from services.attention_worker.checks import check_microbatch

KEY_TILE = 64
PROMPT_TILE = 16
"""A divisor of `KEY_TILE`: all rows of a query tile end in the same key tile."""

_MAX_QUERY_TILES = 32
"""Query tiles that are computed together; keeps their key tiles in the processor's cache."""

Indices = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One key tile for each of a block's first query tiles."""

    runs: torch.Tensor
    """`[n, runs per tile]`: where the keys of each query tile lie, see `PageStore.gather`."""
    first_masked: int
    """Query tiles from here on have keys that not every row sees."""
    hidden: torch.Tensor
    """bool `[n - first_masked, height, KEY_TILE]`: keys that a row must not see."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Query tiles that are computed together, longest way first."""

    num_tiles: int
    height: int
    """Rows per query tile; absent ones are zeros."""
    rows: torch.Tensor
    """`[k]`: rows of the microbatch."""
    tiles: torch.Tensor
    """`[k]`: each row's query tile."""
    offsets: torch.Tensor
    """`[k]`: each row's place in its query tile."""
    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _QueryTiles:
    """All query tiles of one height, with the rows that belong to them."""

    height: int
    rows: Indices
    tile_of_row: Indices
    offsets: Indices
    entry: Indices
    """Per tile."""
    first_position: Indices
    """Per tile, present in the microbatch or not."""
    last_key_tile: Indices
    """Per tile: its own, or for a local entry the last before the entry."""


class AttentionPlan:
    """The index tensors of one microbatch, the same for every layer with the same window."""

    def __init__(
        self, entries: Entries, page_table: NDArray[np.int32], page_size: int, num_pages: int
    ) -> None:
        """Lay out a microbatch.

        Raises:
            PageFault: A row lies outside its table, or a page outside the pool.
        """
        check_microbatch(entries, page_table, page_size, num_pages)
        columns = entries.astype(np.int64)
        self._page_size = page_size
        self.run_length = gcd(KEY_TILE, page_size)
        """Keys of a tile that lie next to each other, whatever the pages."""
        self._page_table = page_table.astype(np.int64)
        counts, table_lengths = columns[:, NUM_ROWS], columns[:, NUM_PAGES]
        self._table_starts = np.cumsum(table_lengths) - table_lengths  # [R]
        self._last_pages = (columns[:, START] + counts - 1).clip(0) // page_size  # [R]
        self._is_local, self._starts = is_local(entries), columns[:, START]
        self._entry = np.repeat(np.arange(len(columns)), counts)  # [T]
        first_rows = np.cumsum(counts) - counts  # [R]
        self._position = np.arange(len(self._entry)) + (columns[:, START] - first_rows)[self._entry]
        slots = self._slots(self._entry, self._position)
        self.slots = torch.from_numpy(slots)
        """`[T]`: where each row's key and value belong."""
        self.fresh_pages = torch.from_numpy(slots[slots % page_size == 0] // page_size)
        """Pages that get their first token."""
        is_prompt = self._position < columns[self._entry, NUM_PROMPT]
        self._query_tiles = (
            self._cut(np.flatnonzero(is_prompt), PROMPT_TILE),
            self._cut(np.flatnonzero(~is_prompt), 1),
        )
        self._blocks: dict[int | None, tuple[Block, ...]] = {}

    @property
    def num_rows(self) -> int:
        """Token rows of the microbatch."""
        return len(self._entry)

    def blocks(self, window: int | None) -> tuple[Block, ...]:
        """Give the work of a layer whose rows see their last `window` positions, or all."""
        if window not in self._blocks:
            self._blocks[window] = tuple(
                block for tiles in self._query_tiles for block in self._pack(tiles, window)
            )
        return self._blocks[window]

    def _slots(self, entry: Indices, position: Indices) -> Indices:
        """Look positions up in their entries' tables; any shapes that broadcast.

        Positions after the entry's last row stay in its last page: they are masked, and what is
        there is its own.
        """
        page_index = np.minimum(position // self._page_size, self._last_pages[entry])
        page = self._page_table[self._table_starts[entry] + page_index]
        slots: Indices = page * self._page_size + position % self._page_size
        return slots

    def _cut(self, rows: Indices, height: int) -> _QueryTiles:
        entry, position = self._entry[rows], self._position[rows]
        first = position // height * height
        begins = np.ones(len(rows), dtype=bool)
        begins[1:] = (entry[1:] != entry[:-1]) | (first[1:] != first[:-1])
        return _QueryTiles(
            height=height,
            rows=rows,
            tile_of_row=np.cumsum(begins) - 1,
            offsets=position - first,
            entry=entry[begins],
            first_position=first[begins],
            last_key_tile=np.where(
                self._is_local[entry], self._starts[entry] // KEY_TILE - 1, first // KEY_TILE
            )[begins],
        )

    def _pack(self, tiles: _QueryTiles, window: int | None) -> Iterator[Block]:
        """Sort query tiles by their number of steps, so that each step concerns the first few."""
        first_key = np.zeros_like(tiles.first_position)
        if window is not None:
            first_key = np.maximum(tiles.first_position - window + 1, 0) // KEY_TILE
        order = np.argsort(first_key - tiles.last_key_tile, kind="stable")
        rank = np.argsort(order)[tiles.tile_of_row]  # of each row's tile
        for start in range(0, len(order), _MAX_QUERY_TILES):
            chosen = order[start : start + _MAX_QUERY_TILES]
            inside = np.flatnonzero((rank >= start) & (rank < start + len(chosen)))
            part = replace(
                tiles,
                entry=tiles.entry[chosen],
                first_position=tiles.first_position[chosen],
                last_key_tile=tiles.last_key_tile[chosen],
            )
            yield Block(
                num_tiles=len(chosen),
                height=tiles.height,
                rows=torch.from_numpy(tiles.rows[inside]),
                tiles=torch.from_numpy(rank[inside] - start),
                offsets=torch.from_numpy(tiles.offsets[inside]),
                steps=tuple(self._steps(part, first_key[chosen], window)),
            )

    def _steps(self, tiles: _QueryTiles, first_key: Indices, window: int | None) -> Iterator[Step]:
        num_steps = tiles.last_key_tile - first_key + 1
        for step in range(num_steps[0]):
            num_active = int((num_steps > step).sum())
            # Only the last tile crosses the diagonal; a window begins in the first two.
            in_window_edge = window is not None and step < 2
            first_masked = 0 if in_window_edge else int((num_steps > step + 1).sum())
            masked = slice(first_masked, num_active)
            starts = (first_key[:num_active, None] + step) * KEY_TILE  # [n, 1]
            run_starts = starts + np.arange(0, KEY_TILE, self.run_length)
            slots = self._slots(tiles.entry[:num_active, None], run_starts)
            keys = (starts[masked] + np.arange(KEY_TILE))[:, None, :]
            queries = (tiles.first_position[masked, None] + np.arange(tiles.height))[:, :, None]
            hidden = keys > queries
            if window is not None:
                hidden |= keys <= queries - window
            yield Step(
                runs=torch.from_numpy(slots // self.run_length),
                first_masked=first_masked,
                hidden=torch.from_numpy(hidden),
            )
