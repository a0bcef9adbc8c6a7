"""Which ready requests form the next microbatch, and by how many tokens each advances."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import ceil

from common.ids import RequestId, WorkerId

CHUNK_ALIGNMENT = 64
"""A chunk that does not finish its prompt ends on a multiple of it, so that no tile is cut."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A ready request, as batching sees it."""

    request_id: RequestId
    """Rises with age: lower ids came first."""
    worker_id: WorkerId
    """The attention worker that holds its pages."""
    start: int
    """Position of the first token that is not in the pages yet."""
    num_missing: int
    """Tokens from there to the end: 1 in decode."""
    alone: bool = False
    """It was in failed microbatches and must not take others with it again."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What bounds one microbatch."""

    max_entries: int
    max_rows: int
    """Token budget: decode rows first, prefill chunks share the rest."""
    max_workers: int
    """Fan-out: attention workers it may draw on before it is topped up from others."""


@dataclass(frozen=True, slots=True)
class Advance:
    """An entry of the microbatch to be: this request, by so many tokens."""

    request_id: RequestId
    worker_id: WorkerId
    num_rows: int
    alone: bool


def fan_out(num_attention_workers: int, num_ranges: int) -> int:
    """Give the attention workers that one microbatch draws on: enough to occupy all of them."""
    return max(1, ceil(num_attention_workers / num_ranges))


def is_worth_sending(advances: Sequence[Advance], limits: Limits, num_live: int) -> bool:
    """Say whether a microbatch may leave, or should merge with what comes home next.

    A small one costs its visits nearly as much as a full one. It waits only while others are under
    way, and never if a request travels alone.
    """
    num_rows = sum(advance.num_rows for advance in advances)
    is_half_full = 2 * len(advances) >= limits.max_entries or 2 * num_rows >= limits.max_rows
    return is_half_full or not num_live or any(advance.alone for advance in advances)


def choose(candidates: Iterable[Candidate], limits: Limits) -> list[Advance]:
    """Fill a microbatch from the ready requests.

    Few attention workers first: those with the most ready entries, topped up from the others.
    Decode rows come before prefill chunks, and older requests before younger ones.

    Returns:
        Advances grouped by attention worker, each worker's in order of age; empty if nothing is
        ready.
    """
    ready = list(candidates)
    suspects = [candidate for candidate in ready if candidate.alone]
    if suspects:
        ready = [min(suspects, key=lambda suspect: suspect.request_id)]
    chosen = _fill(_by_preference(ready, limits), limits)
    return sorted(chosen, key=lambda advance: (advance.worker_id, advance.request_id))


def _by_preference(ready: Sequence[Candidate], limits: Limits) -> list[Candidate]:
    by_worker: dict[WorkerId, list[Candidate]] = defaultdict(list)
    for candidate in ready:
        by_worker[candidate.worker_id].append(candidate)
    workers = sorted(by_worker, key=lambda worker: (-len(by_worker[worker]), worker))
    preferred = set(workers[: limits.max_workers])
    return sorted(
        ready,
        key=lambda candidate: (
            candidate.worker_id not in preferred,
            candidate.num_missing > 1,
            candidate.request_id,
        ),
    )


def _fill(candidates: Iterable[Candidate], limits: Limits) -> list[Advance]:
    chosen: list[Advance] = []
    room = limits.max_rows
    for candidate in candidates:
        if len(chosen) == limits.max_entries or room == 0:
            break
        num_rows = _chunk(candidate, room)
        if num_rows:
            room -= num_rows
            chosen.append(
                Advance(candidate.request_id, candidate.worker_id, num_rows, candidate.alone)
            )
    return chosen


def _chunk(candidate: Candidate, room: int) -> int:
    if candidate.num_missing <= room:
        return candidate.num_missing
    stop = (candidate.start + room) // CHUNK_ALIGNMENT * CHUNK_ALIGNMENT
    # A budget below the alignment must not stop a prompt for ever.
    return stop - candidate.start if stop > candidate.start else room
