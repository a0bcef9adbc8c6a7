"""How the seconds of tier 1 grow with rows, learned from the sizes that were seen."""

import pytest

from common.policy.pace import VisitTimes


def test_two_sizes_tell_what_a_third_takes():
    visit_times = VisitTimes()
    visit_times.note(16, 0.008 + 16 * 0.001)
    visit_times.note(64, 0.008 + 64 * 0.001)

    factor = visit_times.scale(64, 128)

    assert factor == pytest.approx((0.008 + 0.128) / (0.008 + 0.064))


def test_sizes_that_hardly_differ_teach_nothing():
    # Halves of 64 requests that happen to be 31 and 33, while something else took the processor.
    visit_times = VisitTimes()
    visit_times.note(31, 0.100)
    visit_times.note(33, 0.180)

    factor = visit_times.scale(33, 3)

    assert factor == pytest.approx(VisitTimes().scale(33, 3))


def test_a_size_further_off_is_taken_where_the_next_one_hardly_differs():
    visit_times = VisitTimes()
    visit_times.note(31, 0.100)
    visit_times.note(33, 0.180)
    visit_times.note(512, 0.180)

    factor = visit_times.scale(33, 3)

    assert factor == pytest.approx(1.0)
