"""How long a microbatch may travel, and a busy engine stand still."""

import pytest

from common.policy.patience import LEAST_HANG_S, UNKNOWN_HANG_S, deadline_s, hang_s


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


def test_first_microbatches_have_time_to_warm_up() -> None:
    assert deadline_s([], num_rows=1, num_retries=0) == 120.0


def test_a_deadline_is_never_below_ten_seconds() -> None:
    assert deadline_s([(0.01, 32)], num_rows=32, num_retries=0) == 10.0


def test_slow_passes_get_twenty_times_their_usual_time() -> None:
    assert deadline_s([(2.0, 32)], num_rows=1, num_retries=0) == 40.0


def test_a_large_prefill_is_not_measured_by_decode_steps() -> None:
    assert deadline_s([(0.1, 10)], num_rows=1000, num_retries=0) == pytest.approx(200.0)


def test_each_retry_doubles_the_deadline() -> None:
    assert deadline_s([(0.1, 10)], num_rows=1, num_retries=2) == 40.0
