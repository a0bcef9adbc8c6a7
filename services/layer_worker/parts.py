"""What tier 2 is to do with each shard of a microbatch: which entries attend, which are written."""

from dataclasses import dataclass

import numpy as np

from common.messages import Route, Shard, Tensor
from common.messages.entries import NUM_PAGES, NUM_ROWS, Entries, is_written


@dataclass(frozen=True, slots=True)
class Part:
    """Neighbouring entries of one shard, with their rows and their cells of the page table."""

    start_entry: int
    stop_entry: int
    start_row: int
    stop_row: int
    start_page: int
    stop_page: int

    @property
    def num_rows(self) -> int:
        """Token rows of all its entries."""
        return self.stop_row - self.start_row

    def entries(self, entries: Tensor) -> Tensor:
        """View its entries among those of the microbatch."""
        return entries.rows(self.start_entry, self.stop_entry)

    def page_table(self, page_table: Tensor) -> Tensor:
        """View its cells among those of the microbatch."""
        return page_table.rows(self.start_page, self.stop_page)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardParts:
    """A shard, cut where its written entries begin; one of the parts may be missing."""

    attends: Part | None
    written: Part | None
    first_written: int = 0
    """The first row of `written` among the written rows of all shards."""


def cut_shards(route: Route, entries: Entries) -> tuple[ShardParts, ...]:
    """Cut every shard of a route; the written entries of a shard are its last ones.

    Shapes:
        entries: [R, 6]
    """
    written = is_written(entries)
    if not written.any():
        return tuple(ShardParts(attends=_whole(shard), written=None) for shard in route.shards)
    rows, pages = (
        np.concatenate([[0], entries[:, column].cumsum()]).tolist()
        for column in (NUM_ROWS, NUM_PAGES)
    )

    def part(start: int, stop: int) -> Part | None:
        if start == stop:
            return None
        return Part(start, stop, rows[start], rows[stop], pages[start], pages[stop])

    parts, first_written = [], 0
    for shard in route.shards:
        start, stop = shard.start_entry, shard.stop_entry
        cut = stop - int(np.count_nonzero(written[start:stop]))
        parts.append(
            ShardParts(
                attends=part(start, cut), written=part(cut, stop), first_written=first_written
            )
        )
        first_written += rows[stop] - rows[cut]
    return tuple(parts)


def _whole(shard: Shard) -> Part:
    return Part(
        shard.start_entry,
        shard.stop_entry,
        shard.start_row,
        shard.stop_row,
        shard.start_page,
        shard.stop_page,
    )
