"""What tier 2 is to do with each shard of a microbatch: which entries attend, which are written."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from common.messages import Route, Tensor
from common.messages.entries import NUM_PAGES, NUM_ROWS, Entries, has_local, is_written


class _Place(NamedTuple):
    """A border between two entries, with its row and its cell of the page table."""

    entry: int
    row: int
    page: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Neighbouring entries of one shard: the same in every layer."""

    entries: Tensor
    page_table: Tensor
    start_row: int
    stop_row: int

    @property
    def num_rows(self) -> int:
        """Token rows of all its entries."""
        return self.stop_row - self.start_row


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardParts:
    """A shard, cut where its written entries begin; one of the parts may be missing."""

    attends: Part | None
    written: Part | None
    first_written: int = 0
    """The first row of `written` among the written rows of all shards."""


def cut_shards(route: Route, entries: Tensor, page_table: Tensor) -> tuple[ShardParts, ...]:
    """Cut every shard of a route; the written entries of a shard are its last ones.

    Shapes:
        entries: [R, 6], page_table: [N]
    """

    def part(start: _Place, stop: _Place) -> Part | None:
        if start == stop:
            return None
        return Part(
            entries=entries.rows(start.entry, stop.entry),
            page_table=page_table.rows(start.page, stop.page),
            start_row=start.row,
            stop_row=stop.row,
        )

    parts, first_written = [], 0
    for shard, cut in zip(route.shards, _cuts(route, entries.numpy()), strict=True):
        start = _Place(shard.start_entry, shard.start_row, shard.start_page)
        stop = _Place(shard.stop_entry, shard.stop_row, shard.stop_page)
        parts.append(
            ShardParts(
                attends=part(start, cut), written=part(cut, stop), first_written=first_written
            )
        )
        first_written += stop.row - cut.row
    return tuple(parts)


def _cuts(route: Route, entries: Entries) -> list[_Place]:
    """Find where the written entries of each shard begin; at its end if there are none."""
    if not has_local(entries):
        return [_Place(each.stop_entry, each.stop_row, each.stop_page) for each in route.shards]
    written = is_written(entries)
    rows, pages = (
        np.concatenate([[0], entries[:, column].cumsum()]).tolist()
        for column in (NUM_ROWS, NUM_PAGES)
    )
    cuts = [
        shard.stop_entry - int(np.count_nonzero(written[shard.start_entry : shard.stop_entry]))
        for shard in route.shards
    ]
    return [_Place(cut, rows[cut], pages[cut]) for cut in cuts]
