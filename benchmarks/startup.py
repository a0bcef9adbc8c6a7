"""How long a newcomer waits: for the demo's first row, and for the first token of a chat.

    python -m benchmarks.startup --runs 5

Each command begins with nothing running and, as after a fresh install, with nothing of this repository
compiled; what was installed is. The shipped model, the demo's six processes, and a chat of four.
"""

import json
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

_ROOT = Path(__file__).parent.parent
_TINY = _ROOT / "examples/tiny"
_COMMAND = (sys.executable, "-m", "services.admin")
_POLL_S = 0.01


def main(
    runs: int = 5,
    compiled: Annotated[
        bool, typer.Option("--compiled", help="As from the second run on.")
    ] = False,
) -> None:
    """Run both commands in turns, and print their seconds."""
    seconds: dict[str, list[float]] = {"first_row_s": [], "first_token_s": []}
    measures: Sequence[Callable[[Path], float]] = (_first_row_s, _first_token_s)
    for _ in range(runs):
        for name, measure in zip(seconds, measures, strict=True):
            if not compiled:
                _forget_compiled()
            with TemporaryDirectory() as folder:
                seconds[name].append(measure(Path(folder)))
    for name, values in seconds.items():
        shown = {"median": statistics.median(values), "least": min(values), "most": max(values)}
        print(json.dumps({name: {key: round(value, 2) for key, value in shown.items()}}))


def _forget_compiled() -> None:
    for package in ("benchmarks", "common", "examples", "services"):
        for path in (_ROOT / package).rglob("__pycache__"):
            shutil.rmtree(path)


def _first_row_s(folder: Path) -> float:
    """Run the demo's job; give the seconds until its output has a row."""
    output = folder / "out.jsonl"
    shape = ("--layer-workers", "2", "--attention-workers", "2", "--kv-memory", "64MiB")
    job = ("run-batch", "-i", _TINY / "batch.jsonl", "-o", output, "--model", _TINY / "model")
    started_s = time.monotonic()
    with subprocess.Popen(
        [*_COMMAND, *job, *shape], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=_ROOT
    ) as process:
        part = output.with_name("out.jsonl.part")
        while process.poll() is None and not (part.exists() and part.stat().st_size):
            time.sleep(_POLL_S)
        waited_s = time.monotonic() - started_s
    assert process.returncode == 0
    return waited_s


def _first_token_s(_: Path) -> float:
    """Ask one thing; give the seconds until something is answered."""
    started_s = time.monotonic()
    with subprocess.Popen(
        [*_COMMAND, "chat", "--model", _TINY / "model", "--temperature", "0"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=_ROOT,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"sort: banana\n")
        process.stdin.close()
        answered = process.stdout.read(1)
        waited_s = time.monotonic() - started_s
        process.stdout.read()
    assert answered
    assert process.returncode == 0
    return waited_s


if __name__ == "__main__":
    typer.run(main)
