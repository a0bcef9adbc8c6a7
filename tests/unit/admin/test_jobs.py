"""`glinthawk jobs` says how far each job is and why it waits."""

import io
import json
from typing import Any, cast

import pytest

from services.admin.client import JobStatus, RouterClient
from services.admin.jobs import cancel_job, list_jobs, resume_job, show_job
from services.router.job_account import JobReport
from tests.support.accounts import report, status


def job(job_id: str, **changes: Any) -> dict[str, Any]:
    shown = {
        "job_id": job_id,
        "state": "running",
        "paused": None,
        "created_at": 0.0,
        "num_lines": 9,
        "num_completed": 3,
        "num_failed": 1,
        "generated_tokens": 77,
    }
    return {**shown, **changes}


class FakeRouter:
    def __init__(self) -> None:
        self.kept = [job("batch_1"), job("batch_2", paused="the disk is full")]

    def jobs(self) -> list[dict[str, Any]]:
        return self.kept

    def show_job(self, job_id: str) -> dict[str, Any]:
        return next(each for each in self.kept if each["job_id"] == job_id)

    def job(self, job_id: str) -> JobStatus:
        return JobStatus.of(self.show_job(job_id))

    def report(self, job_id: str) -> JobReport:
        return report(status(), status())

    def cancel(self, job_id: str) -> None:
        self.show_job(job_id)["state"] = "cancelled"

    def resume(self, job_id: str) -> JobStatus:
        self.show_job(job_id)["state"] = "queued"
        return self.job(job_id)


@pytest.fixture
def router() -> RouterClient:
    return cast(RouterClient, FakeRouter())


@pytest.fixture
def out() -> io.StringIO:
    return io.StringIO()


def test_the_list_has_a_line_per_job(router: RouterClient, out: io.StringIO) -> None:
    list_jobs(router, out, as_json=False)

    _, first, second = out.getvalue().splitlines()
    assert "batch_1  running  4 of 9" in first
    assert "batch_2  paused" in second


def test_scripts_get_all_of_it(router: RouterClient, out: io.StringIO) -> None:
    list_jobs(router, out, as_json=True)

    assert json.loads(out.getvalue()) == router.jobs()


def test_one_job_can_be_shown(router: RouterClient, out: io.StringIO) -> None:
    show_job(router, "batch_2", out)

    shown = json.loads(out.getvalue())
    assert (shown["paused"], shown["report"]["wall_s"]) == ("the disk is full", 4.0)


def test_a_cancelled_job_is_told_with_what_is_done(router: RouterClient, out: io.StringIO) -> None:
    cancel_job(router, "batch_1", out)

    assert out.getvalue() == "batch_1 is cancelled: 4 of 9 lines are done\n"


def test_a_resumed_job_that_still_waits_says_why(router: RouterClient, out: io.StringIO) -> None:
    resume_job(router, "batch_2", out)

    assert out.getvalue().splitlines()[1] == "it waits: the disk is full"
