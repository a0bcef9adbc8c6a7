"""In which order ready work is served: one rule for both tiers and for the simulator."""

from collections.abc import Callable
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from typing import Generic, TypeVar

from common.ids import MicrobatchId

PRE_ATTENTION, ATTENTION, POST_ATTENTION = range(3)
"""The stages of a layer, in the order in which a microbatch passes them."""

T = TypeVar("T")
Rank = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Depth:
    """How far a piece of ready work is on its way through the model."""

    layer: int
    stage: int
    microbatch_id: MicrobatchId


Order = Callable[[Depth], Rank]
"""Gives the rank of ready work; the lowest is served first."""


def deepest_first(depth: Depth) -> Rank:
    """Serve what is nearest to done, which bounds what is parked; then the oldest microbatch."""
    return (-depth.layer, -depth.stage, depth.microbatch_id)


def oldest_first(depth: Depth) -> Rank:
    """Serve microbatches in the order in which they were formed."""
    return (depth.microbatch_id, -depth.layer, -depth.stage)


@dataclass(slots=True)
class ReadyQueue(Generic[T]):
    """Work that could run now, served by rank; equal ranks in order of arrival.

    Its limit is the router's: no more microbatches are ready than are in flight.
    """

    order: Order = deepest_first
    _heap: list[tuple[Rank, int, Depth, T]] = field(default_factory=list)
    _num_pushed: int = 0

    def __len__(self) -> int:
        return len(self._heap)

    def push(self, depth: Depth, item: T) -> None:
        """Add work that is ready."""
        heappush(self._heap, (self.order(depth), self._num_pushed, depth, item))
        self._num_pushed += 1

    def pop(self) -> T:
        """Take the work to be served next; the queue must not be empty."""
        return heappop(self._heap)[3]

    def keep(self, wanted: Callable[[MicrobatchId], bool]) -> None:
        """Drop the work of all microbatches that are not wanted."""
        kept = [cell for cell in self._heap if wanted(cell[2].microbatch_id)]
        if len(kept) < len(self._heap):
            heapify(kept)
            self._heap = kept

    def clear(self) -> None:
        """Drop all work."""
        self._heap.clear()

    def microbatches(self) -> list[MicrobatchId]:
        """List the microbatches that have work here, in no particular order."""
        return [cell[2].microbatch_id for cell in self._heap]
