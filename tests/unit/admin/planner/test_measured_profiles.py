"""Rates that are fitted to measurements give them back; what services cost is split as it arose."""

import numpy as np
import pytest

from common.model_spec import read_model_spec
from common.policy.profile import AttentionPoint, AttentionTimes, AttentionWork
from services.admin.planner.measure_attention import fit
from services.admin.planner.timed_job import TimedJob
from tests.support.emulation import write_config

TRUE = AttentionTimes(
    kv_bytes_per_s=20e9, flops_per_s=300e9, overhead_s=1e-5, entry_s=2e-6, row_s=1.5e-6
)
GRID = [(entries, 1, context) for entries in (1, 8, 64) for context in (64, 512, 4096)]
GRID += [(1, rows, context) for rows, context in ((64, 64), (256, 256), (256, 1024))]


def test_a_fit_finds_the_rates_that_made_the_measurements(tmp_path) -> None:
    spec = read_model_spec(write_config(tmp_path))

    def seconds(entries: int, rows: int, context: int) -> float:
        work = AttentionWork.of(
            np.full(entries, context - rows, np.int32),
            np.full(entries, rows, np.int32),
            None,
            query_size=spec.query_size,
            kv_bytes_per_token=4 * spec.kv_size,
        )
        return TRUE.attend(work)

    points = [
        AttentionPoint(entries=e, rows=r, context=c, p50_s=seconds(e, r, c), p90_s=1.0)
        for e, r, c in GRID
    ]

    found = fit(points, spec, "bf16")

    for name in ("kv_bytes_per_s", "overhead_s", "entry_s", "row_s", "flops_per_s"):
        assert getattr(found, name) == pytest.approx(getattr(TRUE, name), rel=0.05), name


def test_the_pace_of_a_job_is_that_of_its_middle() -> None:
    job = TimedJob(
        wall_s=10.0,
        generated_tokens=100,
        tokens_at=((1.0, 0), (5.0, 30), (6.0, 50), (7.0, 70), (10.0, 100)),
        processor_s={},
    )

    assert job.tokens_per_s == 10.0
    assert job.steady_tokens_per_s() == 20.0
