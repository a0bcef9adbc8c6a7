"""What is known per entry of a microbatch: the columns of two int32 arrays, made by the router.

On the data path nothing per entry is msgpack or a Python object; a service reads the columns it
needs and passes the arrays on.

`entries [R, 6]`: a row per entry, ordered by attention worker, so that a shard is a row range.
`page_table [N]`: the page tables of all entries, one after the other, in token order.
"""

import numpy as np
from numpy.typing import NDArray

REQUEST_ID, START, NUM_ROWS, NUM_PAGES, NUM_PROMPT, FLAGS = range(6)
"""Columns of `entries`.

START: position of the entry's first row, which is the number of tokens already in its pages.
NUM_ROWS: tokens that the entry advances by in this microbatch: 1 in decode, a chunk in prefill.
NUM_PAGES: the entry's share of `page_table`; position p lives in its page p // page_size.
NUM_PROMPT: positions below it are prompt positions and always use the prefill kernel, the others
    the decode kernel, recomputed or not, so that recomputing changes no bit.
FLAGS: the sum of the flags below.
"""

NUM_COLUMNS = 6

SAMPLE = 1
"""Flag: the entry's last row goes through the classifier and gets a token."""

LOCAL = 2
"""Flag: all its rows are prompt, and they attend to each other on the layer worker. Tier 2 takes
their keys and values, and lets them attend to the positions below START, if there are any. Then
START is a multiple of `LOCAL_ALIGNMENT`."""

LOCAL_ALIGNMENT = 64
"""A multiple of every kernel's key tiles."""

Entries = NDArray[np.int32]
"""`[R, 6]`"""


def num_rows(entries: Entries) -> int:
    """Count the token rows of all entries."""
    return int(entries[:, NUM_ROWS].sum())


def is_local(entries: Entries) -> NDArray[np.bool_]:
    """Find the entries whose rows attend to each other on the layer worker.

    Shapes:
        entries: [R, 6] -> [R]
    """
    local: NDArray[np.bool_] = (entries[:, FLAGS] & LOCAL) != 0
    return local


def has_local(entries: Entries) -> bool:
    """Say whether any entry is local, in a fraction of the time that finding them takes.

    Shapes:
        entries: [R, 6]
    """
    return bool(np.bitwise_or.reduce(entries[:, FLAGS]) & LOCAL)


def is_written(entries: Entries) -> NDArray[np.bool_]:
    """Find the entries that tier 2 only writes: local ones with nothing before them.

    Shapes:
        entries: [R, 6] -> [R]
    """
    written: NDArray[np.bool_] = is_local(entries) & (entries[:, START] == 0)
    return written


def positions(entries: Entries) -> NDArray[np.int32]:
    """Give the position of every token row.

    Shapes:
        entries: [R, 6] -> [T], T = sum of NUM_ROWS
    """
    counts = entries[:, NUM_ROWS]
    first_rows = np.cumsum(counts) - counts  # [R]
    offsets = np.repeat(entries[:, START] - first_rows, counts)  # [T]
    rows: NDArray[np.int32] = (np.arange(len(offsets)) + offsets).astype(np.int32)
    return rows


def sampled_rows(entries: Entries) -> NDArray[np.int64]:
    """Give the row index of the last row of every entry that is to be sampled.

    Shapes:
        entries: [R, 6] -> [S], S = entries with the SAMPLE flag
    """
    last_rows: NDArray[np.int64] = np.cumsum(entries[:, NUM_ROWS], dtype=np.int64) - 1
    sampled: NDArray[np.int64] = last_rows[(entries[:, FLAGS] & SAMPLE) != 0]
    return sampled
