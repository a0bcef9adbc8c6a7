"""The API's paths. They translate; the desk and the cluster know."""

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Annotated, Any, BinaryIO, Final, Literal, Protocol, TypeVar

from fastapi import APIRouter, FastAPI, Form, HTTPException, Query, Response, UploadFile
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from common.ids import JobId
from services.router.http.errors import add_error_handlers
from services.router.http.objects import OUTPUT_PREFIX, batch_object, file_object
from services.router.job_store import Job, StoredFile

_LINES_PER_READ: Final = 500
_JSONL: Final = "application/jsonl"

Thing = TypeVar("Thing")


class Desk(Protocol):
    """Where jobs are handed in and results fetched (`services.router.desk.JobDesk`)."""

    async def add_file(self, name: str, source: BinaryIO) -> StoredFile:
        """Keep an uploaded batch file."""
        ...

    async def file(self, file_id: str) -> StoredFile | None:
        """Give an uploaded file, if there is one of this id."""
        ...

    async def create_job(
        self, file_id: str, endpoint: str | None, seed: int | None, metadata: Mapping[str, Any]
    ) -> Job:
        """Store the lines of an uploaded file as a job, and let it run."""
        ...

    async def job(self, job_id: str) -> Job | None:
        """Give a job, if there is one of this id."""
        ...

    async def jobs(self) -> list[Job]:
        """Give all jobs, in the order they came."""
        ...

    async def results(self, job_id: JobId, start: int, limit: int) -> list[tuple[int, str]]:
        """Give finished lines, (number, result), in input order, from a number on."""
        ...

    async def cancel_job(self, job_id: JobId) -> None:
        """End a job that has not ended; what is finished stays."""
        ...


class Cluster(Protocol):
    """What the API tells about the cluster."""

    def status(self) -> dict[str, Any]:
        """Give members and counters, as JSON."""
        ...

    def missing(self) -> list[str]:
        """Say what the cluster still waits for; empty when it can serve."""
        ...

    def model_names(self) -> tuple[str, ...]:
        """Give the names that the model goes by."""
        ...


class NewBatch(BaseModel):
    """The body of `POST /v1/batches`."""

    model_config = ConfigDict(extra="forbid")

    input_file_id: str
    endpoint: Literal["/v1/completions", "/v1/chat/completions"] | None = None
    """Without it each line goes where its `url` says."""
    completion_window: str = "24h"
    """Of no consequence: a job takes as long as it takes."""
    metadata: dict[str, Any] | None = None
    seed: int | None = Field(None, ge=0, lt=2**63)
    """For lines without one."""


def create_app(desk: Desk, cluster: Cluster) -> FastAPI:
    """Make the API."""
    app = FastAPI(title="Glinthawk", openapi_url=None)
    add_error_handlers(app)
    app.include_router(_files(desk))
    app.include_router(_batches(desk))
    app.include_router(_operations(desk, cluster))
    return app


def _files(desk: Desk) -> APIRouter:
    router = APIRouter(prefix="/v1/files")

    @router.post("")
    async def upload(
        file: UploadFile, purpose: Annotated[Literal["batch"], Form()]
    ) -> dict[str, Any]:
        return file_object(await desk.add_file(file.filename or "batch.jsonl", file.file))

    @router.get("/{file_id}")
    async def show(file_id: str) -> dict[str, Any]:
        return file_object(_found(await desk.file(file_id), "file", file_id))

    @router.get("/{file_id}/content")
    async def content(file_id: str) -> Response:
        job_id = file_id.removeprefix(OUTPUT_PREFIX)
        job = _found(await desk.job(job_id), "output file", file_id)
        if job.ended_at is None or not file_id.startswith(OUTPUT_PREFIX):
            raise HTTPException(404, f"there is no output file '{file_id}' yet")
        return StreamingResponse(_all_results(desk, job), media_type=_JSONL)

    return router


def _batches(desk: Desk) -> APIRouter:
    router = APIRouter(prefix="/v1/batches")

    @router.post("")
    async def create(new: NewBatch) -> dict[str, Any]:
        job = await desk.create_job(new.input_file_id, new.endpoint, new.seed, new.metadata or {})
        return batch_object(job)

    @router.get("")
    async def show_all(
        after: str | None = None, limit: Annotated[int, Query(ge=1, le=100)] = 20
    ) -> dict[str, Any]:
        jobs = (await desk.jobs())[::-1]
        ids = [job.job_id for job in jobs]
        start = ids.index(JobId(after)) + 1 if after in ids else 0
        shown = [batch_object(job) for job in jobs[start : start + limit]]
        return {"object": "list", "data": shown, "has_more": start + limit < len(jobs)}

    @router.get("/{job_id}")
    async def show(job_id: str) -> dict[str, Any]:
        return batch_object(_found(await desk.job(job_id), "batch", job_id))

    @router.post("/{job_id}/cancel")
    async def cancel(job_id: str) -> dict[str, Any]:
        job = _found(await desk.job(job_id), "batch", job_id)
        if job.ended_at is None:
            await desk.cancel_job(job.job_id)
        return batch_object(_found(await desk.job(job_id), "batch", job_id))

    return router


def _operations(desk: Desk, cluster: Cluster) -> APIRouter:
    router = APIRouter()

    @router.get("/admin/jobs/{job_id}/results")
    async def results(
        job_id: str,
        after: Annotated[int, Query(ge=0)] = 0,
        limit: Annotated[int, Query(ge=1, le=_LINES_PER_READ)] = _LINES_PER_READ,
    ) -> Response:
        """Give consecutive lines; `after`: those the caller has, `x-next`: then with these."""
        job = _found(await desk.job(job_id), "job", job_id)
        finished = await desk.results(job.job_id, after, limit)
        lines = [text for place, (number, text) in enumerate(finished, after) if number == place]
        headers = {"x-next": str(after + len(lines))}
        return Response(_jsonl(lines), headers=headers, media_type=_JSONL)

    @router.get("/admin/status")
    async def status() -> dict[str, Any]:
        return cluster.status()

    @router.get("/livez")
    async def live() -> dict[str, Any]:
        return {"status": "alive"}

    @router.get("/readyz")
    async def ready() -> JSONResponse:
        missing = cluster.missing()
        if missing:
            return JSONResponse({"status": "waiting", "missing": missing}, 503)
        return JSONResponse({"status": "ready"})

    @router.get("/v1/models")
    async def models() -> dict[str, Any]:
        entries = [
            {"id": name, "object": "model", "created": 0, "owned_by": "glinthawk"}
            for name in cluster.model_names()
        ]
        return {"object": "list", "data": entries}

    return router


async def _all_results(desk: Desk, job: Job) -> AsyncIterator[str]:
    start = 0
    while finished := await desk.results(job.job_id, start, _LINES_PER_READ):
        yield _jsonl([text for _, text in finished])
        start = finished[-1][0] + 1


def _jsonl(lines: Sequence[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def _found(thing: Thing | None, kind: str, thing_id: str) -> Thing:
    if thing is None:
        raise HTTPException(404, f"there is no {kind} '{thing_id}'")
    return thing
