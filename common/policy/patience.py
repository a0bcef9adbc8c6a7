"""How long a microbatch may travel, and a busy engine stand still."""

from collections.abc import Sequence
from statistics import median

LEAST_HANG_S = 30.0
UNKNOWN_HANG_S = 120.0
"""While nothing was measured: first visits load and warm up."""

LEAST_DEADLINE_S = 10.0
UNKNOWN_DEADLINE_S = 120.0

_USUAL_PASSES = 20


def deadline_s(passes: Sequence[tuple[float, int]], num_rows: int, num_retries: int) -> float:
    """Give the seconds after which a microbatch counts as failed.

    Args:
        passes: Seconds and rows of the last microbatches that came home.
        num_rows: Token rows of the microbatch in question.
        num_retries: How often its worst entry has failed already; each doubles the deadline.

    Returns:
        The largest of 10 s, 20 median passes, and 20 times what its rows take at the median pace;
        two minutes while nothing is known.
    """
    if not passes:
        return UNKNOWN_DEADLINE_S * float(2**num_retries)
    usual_s = median(seconds for seconds, _ in passes)
    row_s = median(seconds / rows for seconds, rows in passes)
    expected_s = max(usual_s, row_s * num_rows)
    return max(LEAST_DEADLINE_S, _USUAL_PASSES * expected_s) * float(2**num_retries)


def hang_s(passes: Sequence[tuple[float, int]]) -> float:
    """Give the seconds after which a busy engine that ends nothing counts as hung.

    Args:
        passes: Seconds and rows of the last microbatches that came home. No visit of theirs took
            longer than the whole pass.
    """
    if not passes:
        return UNKNOWN_HANG_S
    return max(LEAST_HANG_S, _USUAL_PASSES * median(seconds for seconds, _ in passes))
