"""`make demo` is a proof, so it is a test."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes import ROOT

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(120)]


def test_the_demo_is_right_and_equal_to_one_process(temporary: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "examples.tiny.demo"],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(temporary)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=110,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert "all tokens of 60 lines equal" in done.stdout
