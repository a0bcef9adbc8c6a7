"""`glinthawk profile`: this machine becomes files that the planner reads."""

from pathlib import Path

import pytest

from common.policy.profile import read_profile
from tests.support.processes import SHIPPED, processes_of, run

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(120)]


def test_a_small_grid_of_this_machine_becomes_profiles_of_its_nodes(
    temporary: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "profiles"
    grid = ("--max-rows", 4, "--max-context", 64, "--threads", 1)

    code, out, error = run(temporary, "profile", "--model", SHIPPED, *grid, "-o", folder)

    assert code == 0, error
    layer, attention, router = (read_profile(Path(line)) for line in out.splitlines())
    assert layer.layer
    assert layer.layer.rows == (1, 2, 4)
    assert layer.messages
    assert attention.attention
    assert attention.messages
    assert router.router
    assert {each.source for each in (layer, attention, router)} == {"measured"}
    assert "services: 8 and 64 requests" in error
    assert processes_of(temporary) == []
