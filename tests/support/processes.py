"""The command line as a user runs it: a process of its own, whose traces can be looked for."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "examples/tiny/model"

_POLL_S = 0.05


def start(temporary: Path, *words: object) -> subprocess.Popen[str]:
    """Start `glinthawk` with a temporary folder of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "services.admin", *map(str, words)],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(temporary)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(temporary: Path, *words: object) -> tuple[int, str, str]:
    """Run `glinthawk` to its end; give its exit code and what it wrote."""
    process = start(temporary, *words)
    try:
        out, error = process.communicate(timeout=110)
    finally:
        process.kill()
    return process.returncode, out, error


def url_of(cluster: subprocess.Popen[str]) -> str:
    """Wait until `glinthawk up` serves; give the URL."""
    assert cluster.stderr
    for text in cluster.stderr:
        if text.startswith("glinthawk serves at "):
            return text.removeprefix("glinthawk serves at ").partition(";")[0]
    message = f"it ended with exit code {cluster.wait()}"
    raise AssertionError(message)


def processes_of(temporary: Path, service: str = "") -> list[psutil.Process]:
    """Find the living processes that came from a command with this temporary folder."""
    return [process for process in psutil.process_iter() if _is_of(process, temporary, service)]


def eventually(condition: Callable[[], object], timeout_s: float = 60.0) -> None:
    """Wait for other processes to bring something about."""
    give_up_at = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < give_up_at, "it did not come about"
        time.sleep(_POLL_S)


def _is_of(process: psutil.Process, temporary: Path, service: str) -> bool:
    try:
        return (
            process.status() != psutil.STATUS_ZOMBIE
            and process.environ().get("TMPDIR") == str(temporary)
            and f"services.{service}" in " ".join(process.cmdline())
        )
    except psutil.Error:  # it ended meanwhile, or it is not ours
        return False
