"""Which ready requests form the next microbatch, and by how many tokens each advances."""

from dataclasses import dataclass
from math import ceil

import numpy as np
from numpy.typing import NDArray

CHUNK_ALIGNMENT = 64
"""A chunk that does not finish its prompt ends on a multiple of it, so that no tile is cut."""


Column = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """The ready requests, as batching sees them: one place in every column, in any order."""

    request_ids: Column
    """Rise with age: lower ids came first."""
    workers: Column
    """The attention worker that holds its pages, by its number in the order of their ids."""
    starts: Column
    """Position of the first token that is not in the pages yet."""
    num_missing: Column
    """Tokens from there to the end: 1 in decode."""
    alone: NDArray[np.bool_]
    """It was in failed microbatches and must not take others with it again."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What bounds one microbatch."""

    max_entries: int
    max_rows: int
    """Token budget: decode rows first, prefill chunks share the rest."""
    max_workers: int
    """Fan-out: attention workers it may draw on before it is topped up from others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A microbatch to be: whose turn it is, and by how many tokens each advances."""

    places: Column
    """[R] among the ready ones, grouped by attention worker, each worker's in order of age."""
    num_rows: Column
    """[R]"""
    alone: bool
    """It is one that travels alone."""


def fan_out(num_attention_workers: int, num_ranges: int) -> int:
    """Give the attention workers that one microbatch draws on: enough to occupy all of them."""
    return max(1, ceil(num_attention_workers / num_ranges))


def is_worth_sending(choice: Choice, limits: Limits, num_live: int) -> bool:
    """Say whether a microbatch may leave, or should merge with what comes home next.

    A small one costs its visits nearly as much as a full one. It waits only while others are under
    way, and never if a request travels alone.
    """
    num_entries, num_rows = len(choice.places), int(choice.num_rows.sum())
    is_half_full = 2 * num_entries >= limits.max_entries or 2 * num_rows >= limits.max_rows
    return is_half_full or choice.alone or not num_live


def choose(ready: Ready, limits: Limits) -> Choice:
    """Fill a microbatch from the ready requests.

    Few attention workers first: those with the most ready entries, topped up from the others.
    Decode rows come before prefill chunks, and older requests before younger ones.

    Returns:
        An empty choice if nothing is ready.
    """
    suspects = np.flatnonzero(ready.alone)
    if len(suspects):
        order = suspects[[ready.request_ids[suspects].argmin()]]
    else:
        order = _by_preference(ready, limits)[: limits.max_entries]
    num_rows = _fill(ready.starts[order], ready.num_missing[order], limits.max_rows)
    order = order[: len(num_rows)]
    grouped = np.lexsort((ready.request_ids[order], ready.workers[order]))
    return Choice(places=order[grouped], num_rows=num_rows[grouped], alone=len(suspects) > 0)


def _by_preference(ready: Ready, limits: Limits) -> Column:
    """Order all places: preferred workers, then decode, then age."""
    num_ready = np.bincount(ready.workers)  # per worker
    preferred = np.lexsort((np.arange(len(num_ready)), -num_ready))[: limits.max_workers]
    is_preferred = np.zeros(len(num_ready), bool)
    is_preferred[preferred] = True
    return np.lexsort(
        (ready.request_ids, ready.num_missing > 1, ~is_preferred[ready.workers])
    ).astype(np.int64)


def _fill(starts: Column, num_missing: Column, room: int) -> Column:
    """Give the rows of the first entries: as many as fit as a whole, then a chunk of the next."""
    ends = num_missing.cumsum()
    num_whole = int(np.searchsorted(ends, room, side="right"))
    if num_whole == len(ends):
        return num_missing
    left = room - (int(ends[num_whole - 1]) if num_whole else 0)
    chunk = _chunk(int(starts[num_whole]), left)
    return np.append(num_missing[:num_whole], [chunk] if chunk else []).astype(np.int64)


def _chunk(start: int, room: int) -> int:
    stop = (start + room) // CHUNK_ALIGNMENT * CHUNK_ALIGNMENT
    # A budget below the alignment must not stop a prompt for ever.
    return stop - start if stop > start else room
