"""How long a busy engine may stand still."""

import pytest

from common.policy.patience import LEAST_HANG_S, UNKNOWN_HANG_S, hang_s


@pytest.mark.parametrize(
    ("passes", "allowed_s"),
    [
        ([], UNKNOWN_HANG_S),
        ([(0.1, 64)], LEAST_HANG_S),
        ([(1.0, 1), (3.0, 1), (9.0, 1)], 60.0),
    ],
)
def test_a_hang_is_twenty_usual_passes_and_never_a_short_time(
    passes: list[tuple[float, int]], allowed_s: float
) -> None:
    assert hang_s(passes) == allowed_s
