"""How many microbatches travel at once, and how long one may take."""

from collections.abc import Sequence
from math import ceil
from statistics import median


def starting_in_flight(num_ranges: int, *, shares_cores: bool) -> int:
    """Choose the number of microbatches in flight before anything was measured.

    With its own machines each range needs one microbatch in its engine, one in attention and one
    on the way: `F = ranges × (1 + ceil((out + attention + back + RTT) / visit))` (docs/design.md)
    with a remainder of two visits. Workers that share cores gain nothing from overlap: the tiers
    take turns, and one microbatch keeps each range busy (measured on two cores, one range, workload
    A, beside other work: 1 in flight gave 1.07 to 1.44 times the tokens/s of 2).
    """
    return num_ranges if shares_cores else 3 * num_ranges


def deadline_s(passes: Sequence[tuple[float, int]], num_rows: int, num_retries: int) -> float:
    """Give the seconds after which a microbatch counts as failed.

    Args:
        passes: Seconds and rows of the last microbatches that came home.
        num_rows: Token rows of the microbatch in question.
        num_retries: How often its worst entry has failed already; each doubles the deadline.

    Returns:
        The largest of 10 s, 20 median passes, and 20 times what its rows take at the median pace;
        two minutes while nothing is known, because first visits load and warm up.
    """
    if not passes:
        return 120.0 * float(2**num_retries)
    usual_s = median(seconds for seconds, _ in passes)
    row_s = median(seconds / rows for seconds, rows in passes)
    return max(10.0, 20 * usual_s, 20 * row_s * num_rows) * float(2**num_retries)


def microbatch_limit(num_running: int, in_flight: int, max_entries: int) -> int:
    """Give the most entries of one microbatch, so that all of them are about equally full."""
    return max(1, min(max_entries, ceil(num_running / in_flight)))
