"""The cluster, the lines and the killer of `benchmarks.chaos`, and what may be left behind."""

import json
import os
import random
import signal
import sqlite3
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from threading import Event, Thread
from types import TracebackType
from typing import Any, Self

import psutil

from services.admin.local_cluster import ClusterPlan, LocalCluster

_TASKS = ("upper", "copy", "reverse")
_WORDS = ("willow", "heron", "ember", "quartz", "maple", "onyx", "fjord", "thistle")
_FEWEST_TOKENS, _MOST_TOKENS = 32, 160
_POLL_S = 0.05
_STOPPED_SHARE = 0.25
_LONGEST_STOP_S = 6.0


def make_plan(model: Path) -> ClusterPlan:
    """Plan a cluster of two layer and three attention workers that is started again without end."""
    return ClusterPlan(
        layer_workers=2,
        attention_workers=3,
        router={"model": model, "max-num-seqs": 48, "checkpoint-tokens": 16},
        attention={"kv-memory": "64MiB"},
        threads=1,
        max_restarts=10_000,
    )


def write_lines(path: Path, num_lines: int) -> Path:
    """Write greedy lines of many lengths, no two with the same prompt."""
    draw = random.Random(0)
    with path.open("w", encoding="utf-8") as file:
        for number in range(num_lines):
            task, word = _TASKS[number % len(_TASKS)], _WORDS[number % len(_WORDS)]
            body = {
                "prompt": f"<s><|user|>{task}: {word}{number}<|assistant|>",
                "max_tokens": draw.randint(_FEWEST_TOKENS, _MOST_TOKENS),
                "temperature": 0,
                "ignore_eos": True,
                "return_token_ids": True,
            }
            line = {
                "custom_id": f"line-{number}",
                "method": "POST",
                "url": "/v1/completions",
                "body": body,
            }
            file.write(json.dumps(line) + "\n")
    return path


def differing(expected: Path, output: Path) -> list[str]:
    """Name the lines of an output that are missing, doubled, misplaced or other than expected."""
    wanted, got = _results_of(expected), _results_of(output)
    pairs = zip(wanted, got, strict=False)
    named = [one[0] for one, other in pairs if one != other]
    return named if len(wanted) == len(got) else [*named, f"{len(got)} of {len(wanted)} lines"]


def _results_of(output: Path) -> list[tuple[str, Any]]:
    """Give each line's name and what is the same in every run: all but ids and times."""
    results = map(json.loads, output.read_text(encoding="utf-8").splitlines())
    return [(each["custom_id"], _answer(each)) for each in results]


def _answer(result: dict[str, Any]) -> Any:
    body = result["response"]["body"]
    return body.get("choices", body), body.get("usage")


class Killer:
    """Sends a signal to a random process at each of so many points of the lines done.

    Most are SIGKILL; the others are SIGSTOP, and SIGCONT some seconds later.

    Attributes:
        counts: How often which service got which signal.
    """

    def __init__(self, cluster: LocalCluster, lines: int, kills: int, draw: random.Random) -> None:
        self.counts: Counter[str] = Counter()
        self._cluster = cluster
        self._store = cluster.directory / "data" / "jobs.sqlite"
        self._points = [(number + 1) * lines / (kills + 1) for number in range(kills)]
        self._draw = draw
        self._ended = Event()
        self._stopped: list[tuple[float, psutil.Process]] = []
        self._thread = Thread(target=self._live, name="killer")

    def __enter__(self) -> Self:
        """Begin."""
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End, and let go on whoever still stands."""
        self._ended.set()
        self._thread.join()

    def _live(self) -> None:
        while not self._ended.wait(_POLL_S):
            self._continue(time.monotonic())
            if self._points and self._num_lines() >= self._points[0]:
                self._points.pop(0)
                self._strike()
        self._continue(float("inf"))

    def _num_lines(self) -> int:
        """Look into the job store: the router may just be dead."""
        with closing(sqlite3.connect(f"file:{self._store}?mode=ro", uri=True)) as store:
            row = store.execute("SELECT total(num_completed + num_failed) FROM jobs").fetchone()
        return int(row[0])

    def _strike(self) -> None:
        name, pid = self._draw.choice(sorted(self._cluster.processes().items()))
        stops = self._draw.random() < _STOPPED_SHARE
        role = name.rstrip("-0123456789")
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            process.send_signal(signal.SIGSTOP if stops else signal.SIGKILL)
            self.counts[f"{role} {'SIGSTOP' if stops else 'SIGKILL'}"] += 1
            if stops:
                until_s = time.monotonic() + self._draw.uniform(0.5, _LONGEST_STOP_S)
                self._stopped.append((until_s, process))

    def _continue(self, now: float) -> None:
        for due in [due for due in self._stopped if due[0] <= now]:
            self._stopped.remove(due)
            with suppress(psutil.NoSuchProcess):
                due[1].send_signal(signal.SIGCONT)


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Give a folder; in it is the temporary folder of this process and of all that it starts."""
    before = tempfile.tempdir, os.environ.get("TMPDIR")
    # Short names: those of sockets must have room in it.
    with tempfile.TemporaryDirectory(prefix="gh-") as name:
        own = Path(name) / "t"
        own.mkdir()
        tempfile.tempdir = os.environ["TMPDIR"] = str(own)
        try:
            yield Path(name)
        finally:
            tempfile.tempdir = before[0]
            del os.environ["TMPDIR"]
            if before[1] is not None:
                os.environ["TMPDIR"] = before[1]


def left_behind(folder: Path) -> set[str]:
    """Name the processes, sockets, shared memory, temporary and other files that there are now.

    Processes are known by their temporary folder, so that one whose parent has ended counts too.
    """
    folders = (Path("/dev/shm"), Path(tempfile.gettempdir()), folder)
    files = {f"file {path}" for folder in folders for path in folder.iterdir()}
    family = [each for each in psutil.process_iter() if _is_of_family(each)]
    processes = {f"process {each.pid} {' '.join(each.cmdline()[:3])}" for each in family}
    own = psutil.Process()
    sockets = {f"socket {each.laddr}" for each in own.net_connections("all") if each.laddr}
    return files | processes | sockets


def _is_of_family(process: psutil.Process) -> bool:
    try:
        return (
            process.pid != os.getpid()
            and process.status() != psutil.STATUS_ZOMBIE
            and process.environ().get("TMPDIR") == os.environ["TMPDIR"]
        )
    except psutil.Error:  # it ended meanwhile, or it is not ours
        return False
