"""Figures are made of two jobs: the workload's, and one that is prefill alone."""

import io
import json
from dataclasses import replace
from typing import Any

import pytest

from services.admin.bench.throughput import Figures, Measurement, make_figures
from services.admin.bench.workloads import choose_workload
from services.router.job_account import JobReport
from tests.support import accounts

WORKLOAD = choose_workload("A", num_requests=10, prompt_tokens=20, output_tokens=11)


def report(generated_tokens: int, wall_s: float) -> JobReport:
    made = accounts.report(accounts.status(), accounts.status())
    return replace(
        made,
        rows=10,
        prompt_tokens=200,
        generated_tokens=generated_tokens,
        wall_s=wall_s,
        output_tokens_per_s=generated_tokens / wall_s,
        tier1_busy=0.5,
        tier2_busy=0.25,
        bytes_per_link={"layer-worker-0 -> attention-worker-0": 3_000_000},
        kernel_paths=("layer_worker cpu-torch",),
    )


@pytest.fixture
def figures() -> Figures:
    return make_figures(report(110, 4.0), report(10, 1.5), computing=0.75, in_flight=1)


def measured(figures: Figures, *rates: float) -> Measurement:
    return Measurement(
        workload=WORKLOAD,
        compute="real",
        runs=tuple(replace(figures, output_tokens_per_s=rate) for rate in rates),
        peak_rss_bytes={"router": 80_000_000},
    )


def test_decode_is_what_the_workload_takes_beyond_its_prefill(figures: Figures) -> None:
    assert figures.decode_tokens_per_s == pytest.approx(100 / 2.5)
    assert figures.prefill_s == pytest.approx(1.5)


def test_total_tokens_count_prompts(figures: Figures) -> None:
    assert figures.total_tokens_per_s == pytest.approx(310 / 4)


def test_bubbles_are_the_time_in_which_nothing_computed(figures: Figures) -> None:
    assert figures.bubbles == pytest.approx(0.25)


def test_tiers_that_overlap_leave_no_negative_bubbles() -> None:
    figures = make_figures(report(110, 4.0), report(10, 1.5), computing=1.01, in_flight=2)

    assert figures.bubbles == 0


def test_decode_that_cannot_be_told_from_prefill_has_no_figure() -> None:
    figures = make_figures(report(110, 0.2), report(10, 0.2), computing=0.5, in_flight=1)

    assert figures.decode_tokens_per_s is None
    assert "decode_tokens_per_s" not in measured(figures, 1.0).spread()


@pytest.mark.parametrize(("rates", "middle"), [((3.0,), 3.0), ((5.0, 1.0, 3.0), 3.0), ((5, 1), 1)])
def test_of_several_runs_the_middle_one_is_reported(
    figures: Figures, rates: tuple[float, ...], middle: float
) -> None:
    measurement = measured(figures, *rates)

    assert measurement.median.output_tokens_per_s == middle
    assert measurement.spread()["output_tokens_per_s"] == (min(rates), max(rates))


def test_json_has_the_middle_run_and_what_belongs_to_all(figures: Figures) -> None:
    out = io.StringIO()

    measured(figures, 5.0, 1.0, 3.0).write_json(out)

    read: dict[str, Any] = json.loads(out.getvalue())
    assert (read["output_tokens_per_s"], read["num_runs"]) == (3.0, 3)
    assert read["workload"]["num_requests"] == 10
    assert read["peak_rss_bytes"] == {"router": 80_000_000}


def test_a_person_reads_the_spread_only_of_several_runs(figures: Figures) -> None:
    once, often = io.StringIO(), io.StringIO()

    measured(figures, 3.0).print(once)
    measured(figures, 5.0, 1.0, 3.0).print(often)

    assert "3.0 tokens/s\n" in once.getvalue()
    assert "3.0 tokens/s (1.0 to 5.0 in 3 runs)" in often.getvalue()
    assert "bubbles 25%, 1 in flight" in once.getvalue()
