"""A job on real processes, watched closely: when its tokens came, and what each process worked."""

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from common.errors import GlinthawkError
from services.admin.local_cluster import LocalCluster

_POLL_S = 0.02
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True, kw_only=True)
class TimedJob:
    """What a job came to."""

    wall_s: float
    """From its submission to its last token."""
    generated_tokens: int
    tokens_at: tuple[tuple[float, int], ...]
    """(seconds since submission, tokens generated so far)."""
    processor_s: Mapping[str, float]
    """Of each process, by name."""

    @property
    def tokens_per_s(self) -> float:
        """Over the whole job."""
        return self.generated_tokens / self.wall_s

    def steady_tokens_per_s(self) -> float:
        """Give the pace of the middle of the job, between a quarter and nine tenths of its tokens."""
        middle = [
            (at_s, tokens)
            for at_s, tokens in self.tokens_at
            if 0.25 <= tokens / self.generated_tokens <= 0.9
        ]
        if len(middle) < 2:
            message = "the job was too short to be measured"
            raise GlinthawkError(message)
        (begin_s, first), (end_s, last) = middle[0], middle[-1]
        return (last - first) / (end_s - begin_s)


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
        tokens_before = client.generated_tokens()
        file_id = client.upload(batch)
        before, started_s = _processor_s(cluster), time.monotonic()
        job_id = client.create_job(file_id)
        tokens_at: list[tuple[float, int]] = []
        while not tokens_at or tokens_at[-1][1] < num_tokens:
            cluster.check()
            tokens = client.generated_tokens() - tokens_before
            tokens_at.append((time.monotonic() - started_s, tokens))
            time.sleep(_POLL_S)
        after = _processor_s(cluster)
        while not (status := client.job(job_id)).ended:
            time.sleep(_POLL_S)
    finally:
        client.close()
    if status.failed or status.state != "completed":
        raise GlinthawkError(f"{status.failed} lines failed, the job is {status.state}")
    return TimedJob(
        wall_s=tokens_at[-1][0],
        generated_tokens=num_tokens,
        tokens_at=tuple(tokens_at),
        processor_s={name: after[name] - before[name] for name in after},
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


def _processor_s(cluster: LocalCluster) -> dict[str, float]:
    """Give the processor time of each process so far, in user and kernel."""
    seconds = {}
    for name, pid in cluster.processes().items():
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        seconds[name] = (int(fields[11]) + int(fields[12])) / _TICKS_PER_S
    return seconds
