"""`glinthawk jobs`: what a running cluster has to do, and what to do about it."""

import json
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, TextIO

from services.admin.client import JobStatus, RouterClient
from services.admin.columns import write_columns

_HEADINGS = ("JOB", "STATE", "LINES", "FAILED", "OUTPUT TOKENS", "SINCE")


def list_jobs(client: RouterClient, out: TextIO, *, as_json: bool) -> None:
    """Write a line per job, or all about each as JSON."""
    jobs = client.jobs()
    if as_json:
        _write_json(jobs, out)
        return
    write_columns(_HEADINGS, map(_row, jobs), out)


def _row(job: Mapping[str, Any]) -> tuple[str, ...]:
    status = JobStatus.of(job)
    return (
        status.job_id,
        "paused" if status.paused else status.state,
        f"{status.num_done} of {status.total}",
        str(status.failed),
        str(job["generated_tokens"]),
        _local_time(job["created_at"]),
    )


def show_job(client: RouterClient, job_id: str, out: TextIO) -> None:
    """Write all that the router keeps about a job, its report included, as JSON."""
    report = client.report(job_id)
    _write_json({**client.show_job(job_id), "report": report and asdict(report)}, out)


def cancel_job(client: RouterClient, job_id: str, out: TextIO) -> None:
    """Stop a job; what is finished stays."""
    client.cancel(job_id)
    _tell(client.job(job_id), out)


def resume_job(client: RouterClient, job_id: str, out: TextIO) -> None:
    """Let a cancelled job go on, and try a paused one at once."""
    _tell(client.resume(job_id), out)


def _tell(status: JobStatus, out: TextIO) -> None:
    done = f"{status.num_done} of {status.total} lines are done"
    out.write(f"{status.job_id} is {status.state}: {done}\n")
    if status.paused:
        out.write(f"it waits: {status.paused}\n")


def _write_json(value: list[dict[str, Any]] | Mapping[str, Any], out: TextIO) -> None:
    out.write(json.dumps(value, indent=2) + "\n")


def _local_time(unix_s: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(unix_s))
