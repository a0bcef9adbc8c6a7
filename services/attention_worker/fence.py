"""Keeps late writers out of pages: each page remembers the highest microbatch that wrote it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.errors import PageFault
from common.ids import MicrobatchId
from common.messages import AttentionRequest, WriteRequest
from common.messages.entries import NUM_PAGES, NUM_ROWS, START, Entries


@dataclass(frozen=True, slots=True)
class _Claim:
    """What a shard of a microbatch writes to, in whatever layer."""

    entries: bytes
    page_table: bytes
    pages: NDArray[np.int32]


class PageFence:
    """The last writer of every page of a pool.

    Microbatch ids rise and are never used again, so that a page that was granted anew, or whose
    request travels again, is safe from whatever is left of the microbatches before.
    """

    def __init__(self, num_pages: int, page_size: int) -> None:
        """Make the fence of a pool that nobody has written to."""
        self._page_size = page_size
        self._writers = np.zeros(num_pages, np.int64)
        self._claims: dict[tuple[MicrobatchId, int, type], _Claim] = {}
        self._highest = MicrobatchId(0)
        """Of those that wrote to any page."""

    def claim(self, request: AttentionRequest | WriteRequest) -> NDArray[np.int32] | None:
        """Give the pages that a shard will write to, and remember it as their writer.

        All layers of a shard write to the same pages, so these are looked up only once.

        Returns:
            None if a higher microbatch has written to one of them.

        Raises:
            PageFault: A page is outside the pool, or a position outside its entry's pages.
        """
        key = (request.microbatch_id, request.shard, type(request))
        entries, page_table = bytes(request.entries.memory), bytes(request.page_table.memory)
        claim = self._claims.get(key)
        if claim and claim.entries == entries and claim.page_table == page_table:
            return claim.pages if self.admits(claim.pages, request.microbatch_id) else None
        pages = self.written_pages(request.entries.numpy(), request.page_table.numpy())
        if not self.admits(pages, request.microbatch_id):
            return None
        self._writers[pages] = request.microbatch_id
        self._highest = max(self._highest, request.microbatch_id)
        self._claims[key] = _Claim(entries, page_table, pages)
        return pages

    def knows_only(self, microbatch_id: MicrobatchId) -> bool:
        """Say whether no other microbatch that is still live has claimed anything."""
        return all(key[0] == microbatch_id for key in self._claims)

    def forget_older(self, oldest_live: MicrobatchId) -> None:
        """Forget what microbatches that have ended were about to write; what they wrote stays."""
        self._claims = {key: claim for key, claim in self._claims.items() if key[0] >= oldest_live}

    def written_pages(self, entries: Entries, page_table: NDArray[np.int32]) -> NDArray[np.int32]:
        """List the pages that entries will write to.

        Shapes:
            entries: [R, 6], page_table: [N] -> [pages]

        Raises:
            PageFault: A page is outside the pool, or a position outside its entry's pages.
        """
        table_sizes = entries[:, NUM_PAGES].astype(np.int64)  # [R]
        first = entries[:, START] // self._page_size  # [R]
        after_last = -(-(entries[:, START] + entries[:, NUM_ROWS]) // self._page_size)  # [R]
        if (after_last > table_sizes).any():
            message = "an entry's positions lie outside its pages"
            raise PageFault(message)
        low, high = page_table.min(), page_table.max()
        if low < 0 or high >= self._writers.size:
            message = f"pages from {low} to {high} were named, the pool has {self._writers.size}"
            raise PageFault(message)
        counts = after_last - first  # [R]
        cells_before = counts.cumsum() - counts  # [R]
        shifts = table_sizes.cumsum() - table_sizes + first - cells_before  # [R]
        cells = shifts.repeat(counts) + np.arange(counts.sum())
        written: NDArray[np.int32] = page_table[cells]
        return written

    def admits(self, pages: NDArray[np.int32], microbatch_id: MicrobatchId) -> bool:
        """Say whether none of the pages was written by a higher microbatch."""
        if microbatch_id >= self._highest:
            return True
        return bool((self._writers[pages] <= microbatch_id).all())
