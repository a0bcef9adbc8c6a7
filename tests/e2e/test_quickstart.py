"""What the quickstart says works as it stands."""

import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes import ROOT

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(180)]

QUICKSTART = ROOT / "docs/quickstart.md"
BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_every_block_runs_in_order(tmp_path: Path, temporary: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    blocks = "\n".join(BLOCK.findall(QUICKSTART.read_text()))
    # The one thing that is not as it stands: someone may have the port already.
    script = (
        blocks.replace("8000", str(port))
        .replace("glinthawk top", f"glinthawk top --url http://127.0.0.1:{port}")
        .replace("glinthawk status", f"glinthawk status --url http://127.0.0.1:{port}")
    )
    commands = tmp_path / "commands"
    commands.mkdir()
    (commands / "glinthawk").write_text(
        f'#!/bin/sh\nexec {sys.executable} -m services.admin "$@"\n'
    )
    (commands / "glinthawk").chmod(0o755)

    run = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=tmp_path,
        env={
            **os.environ,
            "PATH": f"{commands}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "TMPDIR": str(temporary),
        },
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )

    assert run.returncode == 0, run.stderr
    assert shutil.which("curl")
    outputs = [(tmp_path / name).read_text() for name in ("out.jsonl", "third.jsonl")]
    assert [len(output.splitlines()) for output in outputs] == [20, 20]
    assert "layer-worker-0" in run.stdout
