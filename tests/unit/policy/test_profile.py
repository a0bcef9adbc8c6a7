"""A profile gives durations, between its points and beyond, or is refused with what is wrong."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.errors import SettingsError
from common.policy.profile import (
    AttentionTimes,
    AttentionWork,
    LayerTimes,
    read_profile,
    text_of,
)
from examples.profiles.roofline import FOLDER, PROFILES
from tests.support.emulation import LAYER_PROFILE, write_profile

TIMES = LayerTimes(
    rows=(1, 10, 20), pre_s=(1.0, 1.0, 3.0), post_s=(2.0, 2.0, 1.0), classify_s=(0.0, 9.0, 9.0)
)
ATTENTION = AttentionTimes(kv_bytes_per_s=100.0, flops_per_s=1000.0, overhead_s=0.25)


def work_of(start: int, num_rows: int, window: int | None = None) -> AttentionWork:
    return AttentionWork.of(
        np.array([start], np.int32),
        np.array([num_rows], np.int32),
        window,
        query_size=8,
        kv_bytes_per_token=4,
    )


@pytest.mark.parametrize(
    ("num_rows", "seconds"), [(0, 0.0), (1, 1.0), (5, 1.0), (10, 1.0), (15, 2.0), (20, 3.0)]
)
def test_between_its_points_time_is_a_straight_line(num_rows: int, seconds: float) -> None:
    assert TIMES.pre(num_rows) == pytest.approx(seconds)


def test_beyond_the_last_point_its_slope_goes_on() -> None:
    assert TIMES.pre(40) == pytest.approx(7.0)


def test_a_falling_slope_never_makes_time_negative() -> None:
    assert TIMES.post(1000) == 0.0


def test_a_generated_token_is_bound_by_reading_its_keys_and_values() -> None:
    work = work_of(start=99, num_rows=1)

    assert work.read.tolist() == [100.0]
    assert ATTENTION.attend(work) == pytest.approx(0.25 + 400 / 100)


def test_a_prompt_is_bound_by_its_products() -> None:
    work = work_of(start=0, num_rows=100)

    assert work.flops.tolist() == [5050 * 4 * 8]
    assert ATTENTION.attend(work) == pytest.approx(0.25 + 5050 * 32 / 1000)


def test_a_window_bounds_what_is_read_and_computed() -> None:
    work = work_of(start=1000, num_rows=2, window=10)

    assert work.read.tolist() == [11]
    assert work.flops.tolist() == [2 * 10 * 32]


def test_the_last_block_is_read_to_its_end() -> None:
    times = ATTENTION.model_copy(update={"block_tokens": 64})

    seconds = times.attend(work_of(start=64, num_rows=1))

    assert seconds == pytest.approx(0.25 + 128 * 4 / 100)


def test_a_profile_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = write_profile(tmp_path / "profile.json", LAYER_PROFILE)

    assert read_profile(path) == LAYER_PROFILE


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 2}, "version"),
        ({"source": "guess"}, "source"),
        ({"speed": 3}, "speed"),
        ({"model": None}, "shape of its model"),
        ({"layer": {**TIMES.model_dump(), "rows": [1, 20, 10]}}, "layer: rows must ascend"),
        ({"layer": {**TIMES.model_dump(), "pre_s": [1.0]}}, "3 values"),
        ({"layer": {**TIMES.model_dump(), "pre_s": [1.0, -1.0, 1.0]}}, "layer.pre_s.1"),
    ],
)
def test_what_is_no_profile_is_refused_in_one_line(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    path = tmp_path / "profile.json"
    path.write_text(json.dumps({**LAYER_PROFILE.model_dump(), **changes}))

    with pytest.raises(SettingsError, match=message) as refusal:
        read_profile(path)

    assert str(path) in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("content", [None, "{", "[]", "\xff"])
def test_a_file_that_is_missing_or_damaged_is_refused(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "profile.json"
    if content is not None:
        path.write_text(content, encoding="latin-1")

    with pytest.raises(SettingsError, match="profile"):
        read_profile(path)


@pytest.mark.parametrize("name", PROFILES)
def test_the_shipped_profiles_are_what_their_formulas_give(name: str) -> None:
    path = FOLDER / f"{name}.json"

    assert path.read_text() == text_of(PROFILES[name])
    assert read_profile(path) == PROFILES[name]


def test_the_roofline_meets_the_one_published_measurement() -> None:
    times = PROFILES["t4-llama-2-70b"].layer

    assert times
    assert times.post(32) == pytest.approx(6.86e-3, rel=0.01)
