"""`/v1/files`: batch files that come in, and results that go out."""

from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Form, HTTPException, Query, UploadFile
from fastapi.responses import FileResponse, Response, StreamingResponse

from services.router.http.errors import documented
from services.router.http.objects import (
    ERRORS_PREFIX,
    OUTPUT_PREFIX,
    File,
    FileDeleted,
    FilePage,
)
from services.router.http.paging import found, page_of
from services.router.http.protocols import Desk
from services.router.store.job_records import Job

JSONL: Final = "application/jsonl"
LINES_PER_READ: Final = 500

_CONTENT: Final[dict[int | str, dict[str, Any]]] = {
    200: {"content": {JSONL: {"schema": {"type": "string"}}}}
}


def file_routes(desk: Desk) -> APIRouter:
    """Make the paths."""
    router = APIRouter(prefix="/v1/files", tags=["Files"], responses=documented(400))
    _add_list(router, desk)
    _add_files(router, desk)
    return router


def _add_list(router: APIRouter, desk: Desk) -> None:

    @router.post("")
    async def upload(file: UploadFile, purpose: Annotated[Literal["batch"], Form()]) -> File:
        """Keep a batch file."""
        return File.uploaded(await desk.add_file(file.filename or "batch.jsonl", file.file))

    @router.get("")
    async def show_all(
        after: str | None = None,
        limit: Annotated[int, Query(ge=1, le=10_000)] = 10_000,
        order: Literal["asc", "desc"] = "desc",
        purpose: str | None = None,
    ) -> FilePage:
        """List the uploaded files; results are listed with their batches."""
        files = [] if purpose not in (None, "batch") else await desk.files()
        shown = [File.uploaded(file) for file in (files if order == "asc" else files[::-1])]
        page = page_of(shown, after, limit)
        return FilePage(data=page.items, **page.ends())


def _add_files(router: APIRouter, desk: Desk) -> None:
    @router.get("/{file_id}", responses=documented(404))
    async def show(file_id: str) -> File:
        """Show an uploaded file, or the results of an ended batch."""
        results = await _results(desk, file_id)
        if results is not None:
            job, ok = results
            return File.of_results(file_id, job, await desk.results_size(job.job_id, ok))
        return File.uploaded(found(await desk.file(file_id), "file", file_id))

    @router.delete("/{file_id}", responses=documented(404))
    async def delete(file_id: str) -> FileDeleted:
        """Delete an uploaded file; jobs that were made of it keep their lines."""
        if await _results(desk, file_id) is not None:
            raise HTTPException(400, f"'{file_id}' is read from the job store and goes with it")
        if not await desk.delete_file(file_id):
            found(None, "file", file_id)
        return FileDeleted(id=file_id)

    @router.get(
        "/{file_id}/content",
        response_class=Response,
        responses={**_CONTENT, **documented(404)},
    )
    async def content(file_id: str) -> Response:
        """Give what is in a file."""
        results = await _results(desk, file_id)
        if results is not None:
            return StreamingResponse(_all_results(desk, *results), media_type=JSONL)
        file = found(await desk.file(file_id), "file", file_id)
        return FileResponse(await desk.file_path(file.file_id), media_type=JSONL)


async def _results(desk: Desk, file_id: str) -> tuple[Job, bool] | None:
    """Find the ended job that a file is made of, and whether it has its successes."""
    for prefix, ok in ((OUTPUT_PREFIX, True), (ERRORS_PREFIX, False)):
        if file_id.startswith(prefix):
            job = await desk.job(file_id.removeprefix(prefix))
            return (job, ok) if job is not None and job.ended_at is not None else None
    return None


async def _all_results(desk: Desk, job: Job, ok: bool) -> AsyncIterator[str]:
    start = 0
    while finished := await desk.results(job.job_id, start, LINES_PER_READ, ok):
        yield jsonl([text for _, text in finished])
        start = finished[-1][0] + 1


def jsonl(lines: Sequence[str]) -> str:
    """End every line."""
    return "".join(f"{line}\n" for line in lines)
