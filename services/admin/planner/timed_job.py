"""A job on real processes, watched closely: when its tokens came, and what each process worked."""

import os
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from common.errors import GlinthawkError
from services.admin.local_cluster import LocalCluster

_POLL_S = 0.02
_RARE_POLL_S = 0.2
"""In the middle of the job: each question costs the router about a millisecond."""
_NEARLY = 0.9
_LOOP_THREADS = "ZMQbg"
"""What names of threads begin with that move messages, beside the main thread."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TimedJob:
    """What a job came to."""

    wall_s: float
    """From its submission to its last token."""
    generated_tokens: int
    microbatches: int
    tokens_at: tuple[tuple[float, int], ...]
    """(seconds since submission, tokens generated so far)."""
    processor_s: Mapping[str, float]
    """Of each process, by name."""
    loop_s: Mapping[str, float]
    """Of its threads that move messages, without the engine's."""

    @property
    def tokens_per_s(self) -> float:
        """Over the whole job."""
        return self.generated_tokens / self.wall_s

    @property
    def first_token_s(self) -> float:
        """From its submission to its first tokens."""
        return next(at_s for at_s, tokens in self.tokens_at if tokens)

    def engine_s(self, name: str) -> float:
        """Give the processor time of a process's engine."""
        return self.processor_s[name] - self.loop_s[name]


def run_timed(cluster: LocalCluster, batch: Path, num_tokens: int) -> TimedJob:
    """Run a batch file that generates so many tokens.

    Args:
        cluster: Ready.
        batch: In OpenAI's format.
        num_tokens: After which it has ended.

    Raises:
        GlinthawkError: It failed; or a process died.
    """
    client = cluster.wait_until_ready()
    try:
        totals = totals_before = client.status()["totals"]
        file_id = client.upload(batch)
        before, started_s = _all_seconds(cluster), time.monotonic()
        job_id = client.create_job(file_id)
        tokens_at: list[tuple[float, int]] = []
        while not tokens_at or tokens_at[-1][1] < num_tokens:
            cluster.check()
            has_ended = client.job(job_id).ended
            totals = client.status()["totals"]
            tokens = totals["generated_tokens"] - totals_before["generated_tokens"]
            tokens_at.append((time.monotonic() - started_s, tokens))
            if has_ended:
                break  # with all tokens, or with lines that failed
            time.sleep(_RARE_POLL_S if 0 < tokens < _NEARLY * num_tokens else _POLL_S)
        after = _all_seconds(cluster)
        while not (status := client.job(job_id)).ended:
            time.sleep(_POLL_S)
    finally:
        client.close()
    if status.failed or status.state != "completed":
        raise GlinthawkError(f"{status.failed} lines failed, the job is {status.state}")
    return TimedJob(
        wall_s=tokens_at[-1][0],
        generated_tokens=num_tokens,
        microbatches=totals["microbatches"] - totals_before["microbatches"],
        tokens_at=tuple(tokens_at),
        processor_s={name: after[name].all - before[name].all for name in after},
        loop_s={name: after[name].loop - before[name].loop for name in after},
    )


def pin(cluster: LocalCluster, cpus: Mapping[str, int]) -> None:
    """Keep processes, with all of their threads, on one CPU each; those not named on the last one.

    Args:
        cluster: Its processes run, with all the threads they will have.
        cpus: By the names of processes.
    """
    for name, pid in cluster.processes().items():
        cpu = cpus.get(name, max(cpus.values()))
        for own in (pid, *_children(pid)):
            for thread in os.listdir(f"/proc/{own}/task"):
                os.sched_setaffinity(int(thread), {cpu})


def _children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in text.split()]


class _Seconds(NamedTuple):
    """Of processor time that a process has had so far."""

    all: float
    loop: float


def _all_seconds(cluster: LocalCluster) -> dict[str, _Seconds]:
    return {name: _seconds(pid) for name, pid in cluster.processes().items()}


def _seconds(pid: int) -> _Seconds:
    """Ask the scheduler, which counts in nanoseconds; other counts are in hundredths of a second."""
    every = loop = 0.0
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(OSError):  # a thread has just ended
            seconds = int((task / "schedstat").read_text().split()[0]) / 1e9
            every += seconds
            if task.name == str(pid) or (task / "comm").read_text().startswith(_LOOP_THREADS):
                loop += seconds
    return _Seconds(every, loop)
