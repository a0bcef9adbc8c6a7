"""How many microbatches travel at once, how large they are, and when they count as failed."""

import pytest

from common.policy.in_flight import deadline_s, microbatch_limit, starting_in_flight


@pytest.mark.parametrize(("num_ranges", "shares_cores", "expected"), [(1, True, 1), (3, False, 9)])
def test_overlap_is_for_machines_of_their_own(num_ranges, shares_cores, expected):
    assert starting_in_flight(num_ranges, shares_cores=shares_cores) == expected


def test_first_microbatches_have_time_to_warm_up():
    assert deadline_s([], num_rows=1, num_retries=0) == 120.0


def test_a_deadline_is_never_below_ten_seconds():
    assert deadline_s([(0.01, 32)], num_rows=32, num_retries=0) == 10.0


def test_slow_passes_get_twenty_times_their_usual_time():
    assert deadline_s([(2.0, 32)], num_rows=1, num_retries=0) == 40.0


def test_a_large_prefill_is_not_measured_by_decode_steps():
    assert deadline_s([(0.1, 10)], num_rows=1000, num_retries=0) == pytest.approx(200.0)


def test_each_retry_doubles_the_deadline():
    assert deadline_s([(0.1, 10)], num_rows=1, num_retries=2) == 40.0


@pytest.mark.parametrize(("num_running", "expected"), [(0, 1), (64, 22), (10_000, 256)])
def test_microbatches_share_the_running_requests(num_running, expected):
    assert microbatch_limit(num_running, in_flight=3, max_entries=256) == expected
