"""`/v1/batches`: jobs."""

from typing import Annotated, ClassVar, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from services.router.http.errors import documented
from services.router.http.objects import Batch, BatchPage
from services.router.http.paging import found, page_of
from services.router.http.protocols import Desk


class NewBatch(BaseModel):
    """The body of `POST /v1/batches`."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    input_file_id: str
    endpoint: Literal["/v1/completions", "/v1/chat/completions"] | None = None
    """Without it each line goes where its `url` says."""
    completion_window: Annotated[str, Field(pattern=r"^[1-9][0-9]{0,3}[mhd]$")] | None = None
    """What is not done after so many minutes, hours or days expires; without it nothing does."""
    metadata: (
        Annotated[
            dict[
                Annotated[str, Field(max_length=64)],
                Annotated[str, Field(max_length=512)],
            ],
            Field(max_length=16),
        ]
        | None
    ) = None
    seed: int | None = Field(None, ge=0, lt=2**63)
    """For lines without one."""


def batch_routes(desk: Desk) -> APIRouter:
    """Make the paths."""
    router = APIRouter(prefix="/v1/batches", tags=["Batches"], responses=documented(400))

    @router.post("")
    async def create(new: NewBatch) -> Batch:
        """Make a job of an uploaded file and let it run."""
        job = await desk.create_job(
            new.input_file_id, new.endpoint, new.seed, new.metadata or {}, new.completion_window
        )
        return Batch.of(job)

    @router.get("")
    async def show_all(
        after: str | None = None, limit: Annotated[int, Query(ge=1, le=100)] = 20
    ) -> BatchPage:
        """List jobs, newest first."""
        page = page_of([Batch.of(job) for job in (await desk.jobs())[::-1]], after, limit)
        return BatchPage(data=page.items, **page.ends())

    @router.get("/{job_id}", responses=documented(404))
    async def show(job_id: str) -> Batch:
        """Show how far a job is."""
        return Batch.of(found(await desk.job(job_id), "batch", job_id))

    @router.post("/{job_id}/cancel", responses=documented(404))
    async def cancel(job_id: str) -> Batch:
        """End a job; what is finished stays. One that has ended is left as it is."""
        job = found(await desk.job(job_id), "batch", job_id)
        if job.ended_at is None:
            await desk.cancel_job(job.job_id)
        return Batch.of(found(await desk.job(job_id), "batch", job_id))

    return router
