"""What the API's paths need of the router."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from common.ids import JobId, WorkerId
from services.router.job_account import JobReport
from services.router.store.job_records import Job, StoredFile


class Desk(Protocol):
    """Where jobs are handed in and results fetched (`services.router.desk.JobDesk`)."""

    async def add_file(self, name: str, source: BinaryIO) -> StoredFile:
        """Keep an uploaded batch file."""
        ...

    async def file(self, file_id: str) -> StoredFile | None:
        """Give an uploaded file, if there is one of this id."""
        ...

    async def files(self) -> list[StoredFile]:
        """Give all uploaded files, in the order they came."""
        ...

    async def file_path(self, file_id: str) -> Path:
        """Give the place of an uploaded file."""
        ...

    async def delete_file(self, file_id: str) -> bool:
        """Forget an uploaded file; False if there is none of this id."""
        ...

    async def create_job(
        self,
        file_id: str,
        endpoint: str | None,
        seed: int | None,
        metadata: Mapping[str, str],
        completion_window: str | None,
    ) -> Job:
        """Store the lines of an uploaded file as a job, and let it run."""
        ...

    async def job(self, job_id: str) -> Job | None:
        """Give a job, if there is one of this id."""
        ...

    async def jobs(self) -> list[Job]:
        """Give all jobs, in the order they came."""
        ...

    async def report(self, job: Job) -> JobReport | None:
        """Sum a job up; None before it begins, and for a moment after it has ended."""
        ...

    async def results(
        self, job_id: JobId, start: int, limit: int, ok: bool | None = None
    ) -> list[tuple[int, str]]:
        """Give finished lines, (number, result), in input order, from a number on.

        With `ok` only the successful ones, or only the others.
        """
        ...

    async def results_size(self, job_id: JobId, ok: bool) -> int:
        """Count the bytes of a job's results, the successful ones or the others."""
        ...

    async def cancel_job(self, job_id: JobId) -> None:
        """End a job that has not ended; what is finished stays."""
        ...

    async def resume_job(self, job_id: JobId) -> None:
        """Let a cancelled or paused job go on."""
        ...

    def pause(self, job: Job) -> str | None:
        """Say why an open job does not go on; None if it does."""
        ...


class Cluster(Protocol):
    """What the API tells about the cluster."""

    def status(self) -> dict[str, Any]:
        """Give members and counters, as JSON."""
        ...

    def steps(self) -> list[dict[str, Any]]:
        """Give the microbatches that came home last, oldest first, as JSON."""
        ...

    def missing(self) -> list[str]:
        """Say what the cluster still waits for; empty when it can serve."""
        ...

    def drain(self, worker_id: WorkerId, deadline_s: float) -> None:
        """Let a worker leave once its requests have ended, at the latest after the deadline."""
        ...

    def model_names(self) -> tuple[str, ...]:
        """Give the names that the model goes by."""
        ...

    def max_model_len(self) -> int:
        """Give the tokens that a request may come to."""
        ...
