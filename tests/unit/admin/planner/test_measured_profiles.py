"""Rates that are fitted to measurements give them back; what services cost is split as it arose."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from common.model_spec import read_model_spec
from common.policy.profile import (
    AttentionPoint,
    AttentionTimes,
    AttentionWork,
    MessageTimes,
    RouterTimes,
)
from services.admin.planner.measure_attention import Grid, fit
from services.admin.planner.measure_services import ALONE, ServiceTimes, two_rates
from services.admin.planner.replay import (
    ATTENTION_FILE,
    LAYER_FILE,
    ROUTER_FILE,
    Replay,
    slower_attention,
    slower_layer,
)
from services.admin.planner.timed_job import TimedJob
from tests.support.emulation import (
    ATTENTION_PROFILE,
    LAYER_PROFILE,
    write_config,
    write_profile,
)

TRUE = AttentionTimes(
    kv_bytes_per_s=20e9,
    flops_per_s=300e9,
    overhead_s=1e-5,
    entry_s=2e-6,
    row_s=1.5e-6,
    block_tokens=64,
)
GRID = [(entries, 1, context) for entries in (1, 8, 64) for context in (48, 496, 4080)]
GRID += [(1, rows, context) for rows, context in ((64, 64), (256, 256), (256, 1024))]


def work_of(entries: int, context: int) -> AttentionWork:
    return AttentionWork.of(
        np.full(entries, context - 1, np.int32),
        np.ones(entries, np.int32),
        None,
        query_size=64,
        kv_bytes_per_token=256,
    )


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

    found = fit(points, Grid(spec, "bf16", 64, 4096))

    for name in ("kv_bytes_per_s", "overhead_s", "entry_s", "row_s", "flops_per_s"):
        assert getattr(found, name) == pytest.approx(getattr(TRUE, name), rel=0.05), name


def test_two_jobs_tell_what_a_message_and_what_a_byte_took() -> None:
    message_s, byte_s = two_rates([(10, 100), (12, 900)], [10 * 2e-4 + 100e-6, 12 * 2e-4 + 900e-6])

    assert (message_s, byte_s) == pytest.approx((2e-4, 1e-6))


def test_noise_never_makes_a_byte_give_time_back() -> None:
    message_s, byte_s = two_rates([(10, 100), (10, 900)], [1.0, 0.9])

    assert (message_s, byte_s) == (0.1, 0.0)


@pytest.fixture
def replay(tmp_path: Path) -> Replay:
    """A watched cluster whose jobs took what their simulation says at a latency of a millisecond."""
    directory = write_config(tmp_path / "model")
    parts = {
        LAYER_FILE: LAYER_PROFILE,
        ATTENTION_FILE: ATTENTION_PROFILE,
        ROUTER_FILE: LAYER_PROFILE,
    }
    for name, profile in parts.items():
        write_profile(tmp_path / name, profile.model_copy(update={"memory_bytes": 1e9}))
    free = MessageTimes(message_s=0.0, bytes_per_s=1e30)
    job = TimedJob(
        wall_s=0.0,
        generated_tokens=3 * ALONE,
        microbatches=6,
        tokens_at=(),
        processor_s={},
        loop_s={},
    )
    times = ServiceTimes(
        layer=free,
        attention=free,
        router=RouterTimes(microbatch_s=0.0, entry_s=0.0),
        alone=job,
        few=job,
        many=job,
    )
    spec = read_model_spec(directory)
    empty = Replay(directory, spec, tmp_path, ("fp32", "fp32"), times, pin=False)
    took = replace(job, wall_s=empty.seconds(0.001))
    return replace(empty, times=replace(times, alone=took))


def test_the_latency_of_a_message_is_what_explains_the_job(replay: Replay) -> None:
    assert replay.latency() == pytest.approx(0.001, abs=2e-5)


def test_slower_engines_take_longer_for_everything() -> None:
    layer, attention = slower_layer(LAYER_PROFILE.layer, 2.0), slower_attention(TRUE, 2.0)

    assert layer.post(5) == 2 * LAYER_PROFILE.layer.post(5)
    assert attention.attend(work_of(8, 100)) == pytest.approx(2 * TRUE.attend(work_of(8, 100)))
