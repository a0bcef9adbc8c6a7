"""What failures cost: a job among kills, a job through power cuts, and the loss of one worker of three.

    python -m benchmarks.chaos --kills 100 --seed 1
    python -m benchmarks.chaos --power-cuts 20 --seed 1
    python -m benchmarks.chaos --interrupts 20 --seed 1
    python -m benchmarks.chaos --lose-one SIGKILL

All processes are real, and so are the signals. Each prints one line of JSON; the first three end with
exit code 1 if a line differs from the quiet run, or anything is left behind.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal

import psutil
import typer

from benchmarks.chaos_cluster import (
    Killer,
    differing,
    left_behind,
    make_plan,
    temporary_folder,
    write_lines,
)
from benchmarks.chaos_worker import lose_a_worker
from services.admin.local_cluster import LocalCluster
from services.admin.run_batch import BatchFiles, run_batch

_ROOT = Path(__file__).parents[1]
_SHIPPED = _ROOT / "examples/tiny/model"
_LONGEST_LIFE_S = 16.0


def main(
    kills: Annotated[int, typer.Option(help="So many, spread evenly over the lines done.")] = 0,
    power_cuts: Annotated[int, typer.Option(help="So many, at random moments.")] = 0,
    interrupts: Annotated[int, typer.Option(help="SIGTERMs, so many, at random moments.")] = 0,
    lose_one: Annotated[
        Literal["SIGKILL", "SIGSTOP"] | None,
        typer.Option(help="Send this to one attention worker of three."),
    ] = None,
    lines: int = 400,
    seed: int = 1,
) -> None:
    """Disturb a job, and compare it with a quiet one."""
    draw = random.Random(seed)
    with temporary_folder() as folder:
        batch = write_lines(folder / "in.jsonl", lines)
        found = []
        if kills:
            found.append(_kill(batch, kills, lines, draw))
        if power_cuts:
            found.append(_cut_short(batch, power_cuts, draw, signal.SIGKILL))
        if interrupts:
            found.append(_cut_short(batch, interrupts, draw, signal.SIGTERM))
        if lose_one:
            found.append(lose_a_worker(make_plan(_SHIPPED), signal.Signals[lose_one]))
    for figures in found:
        print(json.dumps({"lines": lines, "seed": seed, **figures}))
    raise typer.Exit(any(each.get("differing") or each.get("left_behind") for each in found))


def _kill(batch: Path, kills: int, lines: int, draw: random.Random) -> dict[str, Any]:
    quiet = BatchFiles(input=batch, output=batch.with_name("quiet.jsonl"), report=None)
    quiet_s = run_batch(quiet, make_plan(_SHIPPED)).wall_s
    files = BatchFiles(input=batch, output=batch.with_name("kills.jsonl"), report=None)
    before = {*left_behind(batch.parent), f"file {files.output}"}
    with LocalCluster(make_plan(_SHIPPED)) as cluster:
        cluster.wait_until_ready().close()
        started_s = (
            time.monotonic()
        )  # the report knows nothing of lives that ended before it was kept
        with Killer(cluster, lines, kills, draw) as killer:
            report = run_batch(files, cluster)
        wall_s = time.monotonic() - started_s
    return {
        "signals": dict(killer.counts),
        "differing": differing(quiet.output, files.output),
        "failed": report.failed,
        "quiet_s": round(quiet_s, 1),
        "wall_s": round(wall_s, 1),
        "left_behind": sorted(left_behind(batch.parent) - before),
    }


def _cut_short(batch: Path, cuts: int, draw: random.Random, how: signal.Signals) -> dict[str, Any]:
    """End the command again and again, and give it again; another job begins when one is done.

    SIGKILL is for the command and all its processes, SIGTERM for the command alone.
    """
    quiet = BatchFiles(input=batch, output=batch.with_name("quiet.jsonl"), report=None)
    quiet_s = run_batch(quiet, make_plan(_SHIPPED)).wall_s
    codes: Counter[int] = Counter()
    wrong: list[str] = []
    found: set[str] = set()
    started_s, num_cuts, num_jobs = time.monotonic(), 0, 0
    while num_cuts < cuts:
        num_jobs += 1
        output = batch.with_name(f"cuts-{num_jobs}.jsonl")
        before = {*left_behind(batch.parent), f"file {output}"}
        code = None
        while code != 0:  # a whole output is not yet the end: what is beside it goes last
            ends_s = draw.uniform(0.0, _LONGEST_LIFE_S) if num_cuts < cuts else None
            code = _live(batch, output, ends_s, how)
            codes[code] += 1
            num_cuts += code != 0
            if how is signal.SIGTERM:
                job = (f"file {output}.job", f"file {output}.part")
                found |= left_behind(batch.parent) - before - set(job)
        wrong += differing(quiet.output, output)
        found |= left_behind(batch.parent) - before
    # What the command itself would have removed; it never had the time.
    folders = {each for each in found if how is signal.SIGKILL and "/t/glinthawk-" in each}
    return {
        "signal": how.name,
        "cuts": num_cuts,
        "jobs": num_jobs,
        "exit_codes": dict(codes),
        "quiet_s": round(quiet_s, 1),
        "wall_s": round(time.monotonic() - started_s, 1),
        "differing": wrong,
        "cluster_folders": len(folders),
        "left_behind": sorted(found - folders),
    }


def _live(batch: Path, output: Path, for_s: float | None, how: signal.Signals) -> int:
    """Give the command, and end it after some time or never; gives its exit code."""
    words = [sys.executable, "-m", "services.admin", "run-batch", "--model", str(_SHIPPED)]
    words += ["-i", str(batch), "-o", str(output), "--attention-workers", "2"]
    process = psutil.Popen(words, cwd=_ROOT, stdout=subprocess.DEVNULL)
    with suppress(psutil.TimeoutExpired):
        return int(process.wait(for_s))
    if how is signal.SIGTERM:
        process.terminate()
        return int(process.wait())
    family = [process, *process.children(recursive=True)]
    for each in family:
        with suppress(psutil.NoSuchProcess):
            each.kill()
    psutil.wait_procs(family)
    return int(process.wait())


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    typer.run(main)
