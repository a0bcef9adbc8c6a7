"""Files, batches and models as OpenAI's API shows them; its client's types read them."""

from typing import Any, ClassVar, Final, Literal, Self

from pydantic import BaseModel, ConfigDict

from services.router.store.job_records import Job, StoredFile

OUTPUT_PREFIX: Final = "output-"
ERRORS_PREFIX: Final = "errors-"
"""A job's output and error files go by the job's id behind these; they are read from the job store."""

_STATUS: Final[dict[str, Any]] = {
    "queued": "validating",
    "running": "in_progress",
    "completed": "completed",
    "expired": "expired",
    "cancelled": "cancelled",
}


class Error(BaseModel):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """The body of every answer that is no success."""

    error: Error


class File(BaseModel):
    """A file that was uploaded, or the results of a batch that has ended."""

    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    filename: str
    purpose: Literal["batch", "batch_output"]
    status: Literal["processed"] = "processed"

    @classmethod
    def uploaded(cls, file: StoredFile) -> Self:
        """Show an uploaded file."""
        return cls(
            id=file.file_id,
            bytes=file.size_bytes,
            created_at=int(file.created_at),
            filename=file.name,
            purpose="batch",
        )

    @classmethod
    def of_results(cls, file_id: str, job: Job, size_bytes: int) -> Self:
        """Show a batch's output or error file."""
        return cls(
            id=file_id,
            bytes=size_bytes,
            created_at=int(job.ended_at or job.created_at),
            filename=f"{file_id}.jsonl",
            purpose="batch_output",
        )


class FileDeleted(BaseModel):
    """A file is gone."""

    id: str
    object: Literal["file"] = "file"
    deleted: bool = True


class Page(BaseModel):
    """A stretch of a list."""

    object: Literal["list"] = "list"
    first_id: str | None
    last_id: str | None
    has_more: bool


class FilePage(Page):
    """Uploaded files."""

    data: list[File]


class RequestCounts(BaseModel):
    """How the lines of a batch stand."""

    total: int
    completed: int
    failed: int


class CachedTokens(BaseModel):
    """Input tokens whose keys and values were found; not told apart."""

    cached_tokens: int = 0


class ReasoningTokens(BaseModel):
    """Output tokens of reasoning; not told apart."""

    reasoning_tokens: int = 0


class BatchUsage(BaseModel):
    """Tokens of the lines that are done."""

    input_tokens: int
    input_tokens_details: CachedTokens = CachedTokens()
    output_tokens: int
    output_tokens_details: ReasoningTokens = ReasoningTokens()
    total_tokens: int


class Batch(BaseModel):
    """A job."""

    model_config: ClassVar[ConfigDict] = ConfigDict(use_attribute_docstrings=True)

    id: str
    object: Literal["batch"] = "batch"
    endpoint: str | None
    """None where each line goes where its `url` says."""
    errors: None = None
    input_file_id: str
    completion_window: str | None
    """None where the batch may take as long as it takes."""
    status: Literal["validating", "in_progress", "completed", "expired", "cancelled"]
    output_file_id: str | None
    error_file_id: str | None
    created_at: int
    in_progress_at: int | None
    expires_at: int | None
    finalizing_at: int | None
    completed_at: int | None
    failed_at: None = None
    expired_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None
    request_counts: RequestCounts
    usage: BatchUsage
    metadata: dict[str, str]
    seed: int
    """For lines without one."""

    @classmethod
    def of(cls, job: Job) -> Self:
        """Show a job."""
        ended_at = int(job.ended_at) if job.ended_at is not None else None
        completed_at = ended_at if job.state == "completed" else None
        cancelled_at = ended_at if job.state == "cancelled" else None
        has_ended = ended_at is not None
        return cls(
            id=job.job_id,
            endpoint=job.endpoint,
            input_file_id=job.file_id,
            completion_window=job.completion_window,
            status=_STATUS[job.state],
            output_file_id=f"{OUTPUT_PREFIX}{job.job_id}" if has_ended else None,
            error_file_id=(
                f"{ERRORS_PREFIX}{job.job_id}" if has_ended and job.num_failed else None
            ),
            created_at=int(job.created_at),
            in_progress_at=int(job.created_at) if job.state != "queued" else None,
            expires_at=int(job.expires_at) if job.expires_at is not None else None,
            finalizing_at=completed_at,
            completed_at=completed_at,
            expired_at=ended_at if job.state == "expired" else None,
            cancelling_at=cancelled_at,
            cancelled_at=cancelled_at,
            request_counts=RequestCounts(
                total=job.num_lines, completed=job.num_completed, failed=job.num_failed
            ),
            usage=BatchUsage(
                input_tokens=job.prompt_tokens,
                output_tokens=job.generated_tokens,
                total_tokens=job.prompt_tokens + job.generated_tokens,
            ),
            metadata=dict(job.metadata),
            seed=job.seed,
        )


class BatchPage(Page):
    """Jobs, newest first."""

    data: list[Batch]


class Model(BaseModel):
    """The model that is served."""

    id: str
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: str = "glinthawk"
    max_model_len: int


class ModelList(BaseModel):
    """All models; there is one."""

    object: Literal["list"] = "list"
    data: list[Model]
