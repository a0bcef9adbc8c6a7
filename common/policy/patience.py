"""How long a busy engine may stand still."""

from collections.abc import Sequence
from statistics import median

LEAST_HANG_S = 30.0
UNKNOWN_HANG_S = 120.0
"""While nothing was measured: first visits load and warm up."""

_USUAL_PASSES = 20


def hang_s(passes: Sequence[tuple[float, int]]) -> float:
    """Give the seconds after which a busy engine that ends nothing counts as hung.

    Args:
        passes: Seconds and rows of the last microbatches that came home. No visit of theirs took
            longer than the whole pass.
    """
    if not passes:
        return UNKNOWN_HANG_S
    return max(LEAST_HANG_S, _USUAL_PASSES * median(seconds for seconds, _ in passes))
