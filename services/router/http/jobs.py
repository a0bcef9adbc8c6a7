"""The operator's view of jobs: how far each is, why it waits, and what to do about it."""

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter

from services.router.http.errors import documented
from services.router.http.paging import found
from services.router.http.protocols import Desk
from services.router.job_account import JobReport
from services.router.store.job_records import Job


def job_routes(desk: Desk) -> APIRouter:
    """Make the paths below `/admin/jobs`."""
    router = APIRouter(prefix="/admin/jobs", tags=["Operations"])

    async def find(job_id: str) -> Job:
        return found(await desk.job(job_id), "job", job_id)

    def shown(job: Job) -> dict[str, Any]:
        return {**asdict(job), "paused": desk.pause(job)}

    @router.get("")
    async def show_all() -> dict[str, Any]:
        """List all jobs, in the order they came."""
        return {"jobs": [shown(job) for job in await desk.jobs()]}

    @router.get("/{job_id}", responses=documented(404))
    async def show(job_id: str) -> dict[str, Any]:
        """Say how far a job is, and why it waits if it does."""
        return shown(await find(job_id))

    @router.get("/{job_id}/report", responses=documented(404))
    async def report(job_id: str) -> JobReport | None:
        """Sum a job up, as far as it is; null before it begins, and for a moment after its end."""
        return await desk.report(await find(job_id))

    @router.post("/{job_id}/cancel", responses=documented(404))
    async def cancel(job_id: str) -> dict[str, Any]:
        """End a job; what is finished stays."""
        await desk.cancel_job((await find(job_id)).job_id)
        return shown(await find(job_id))

    @router.post("/{job_id}/resume", responses=documented(404))
    async def resume(job_id: str) -> dict[str, Any]:
        """Let a cancelled job go on, and try a paused one at once."""
        await desk.resume_job((await find(job_id)).job_id)
        return shown(await find(job_id))

    return router
