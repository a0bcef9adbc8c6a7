"""What a cluster's status says, as far as accounts of jobs read it, and a report that is made of it."""

from typing import Any

from services.router.job_account import JobAccount, JobReport, LineCounts

PAGES = {"wanted_tokens": 0, "found_tokens": 0, "preemptions": 0, "recomputed_tokens": {}}


def worker(name: str, role: str, busy_s: float, **links: int) -> dict[str, Any]:
    """Say what a worker has done so far; `links` are bytes by peer."""
    return {
        "worker_id": name,
        "epoch": 7,
        "role": role,
        "kernel_path": "cpu-torch",
        "busy_s": busy_s,
        "links": links,
        "last_heard_s": 0.0,
    }


def status(*workers: dict[str, Any], tokens: int = 0, **pages: Any) -> dict[str, Any]:
    """Say what a cluster has done so far."""
    return {
        "workers": list(workers),
        "totals": {"generated_tokens": tokens},
        "pages": {**PAGES, **pages},
    }


def counts(generated_tokens: int = 40) -> LineCounts:
    """Count lines of which one failed."""
    return LineCounts(rows=3, failed=1, prompt_tokens=15, generated_tokens=generated_tokens)


def report(
    before: dict[str, Any],
    after: dict[str, Any],
    wall_s: float = 4.0,
    *,
    lines: LineCounts | None = None,
    **prices: float,
) -> JobReport:
    """Report what was done between two looks."""
    account = JobAccount()
    account.add(before, after, wall_s, prices)
    return account.report(lines or counts())
