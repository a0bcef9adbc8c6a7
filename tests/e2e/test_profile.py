"""`glinthawk profile` and what can be made of it, as a user types them."""

from pathlib import Path

import pytest

from common.policy.profile import read_profile
from tests.support.processes import SHIPPED, run

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(120)]

SMALL = ("--max-rows", 2, "--max-context", 64, "--max-tokens", 4, "--threads", 1)


def test_this_machine_is_measured_as_every_kind_of_node(temporary: Path, tmp_path: Path) -> None:
    code, out, error = run(
        temporary, "profile", "--model", SHIPPED, *SMALL, "-o", tmp_path / "profiles"
    )

    assert code == 0, error
    layer, attention, router = (read_profile(Path(path)) for path in out.splitlines())
    assert {each.source for each in (layer, attention, router)} == {"measured"}
    assert layer.layer is not None
    assert min(layer.layer.pre_s) > 0
    assert attention.attention is not None
    assert attention.attention.kv_bytes_per_s > 0
    assert router.router is not None
    assert router.router.entry_s + router.router.microbatch_s > 0
    assert list(temporary.iterdir()) == []
