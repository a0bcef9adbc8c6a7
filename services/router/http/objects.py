"""Files and batches as OpenAI's API shows them."""

from typing import Any, Final

from services.router.job_store import Job, StoredFile

OUTPUT_PREFIX: Final = "output-"
"""A job's output file goes by the job's id behind this; it is read from the job store."""

_STATUS: Final = {
    "queued": "validating",
    "running": "in_progress",
    "completed": "completed",
    "cancelled": "cancelled",
}


def file_object(file: StoredFile) -> dict[str, Any]:
    """Show an uploaded file."""
    return {
        "id": file.file_id,
        "object": "file",
        "bytes": file.size_bytes,
        "created_at": int(file.created_at),
        "filename": file.name,
        "purpose": "batch",
        "status": "processed",
    }


def batch_object(job: Job) -> dict[str, Any]:
    """Show a job; error lines stand in its one output file, among the others."""
    ended_at = int(job.ended_at) if job.ended_at is not None else None
    return {
        "id": job.job_id,
        "object": "batch",
        "endpoint": job.endpoint,
        "errors": None,
        "input_file_id": job.file_id,
        "completion_window": "24h",
        "status": _STATUS[job.state],
        "output_file_id": f"{OUTPUT_PREFIX}{job.job_id}" if ended_at else None,
        "error_file_id": None,
        "created_at": int(job.created_at),
        "completed_at": ended_at if job.state == "completed" else None,
        "cancelled_at": ended_at if job.state == "cancelled" else None,
        "request_counts": {
            "total": job.num_lines,
            "completed": job.num_completed,
            "failed": job.num_failed,
        },
        "usage": {
            "input_tokens": job.prompt_tokens,
            "output_tokens": job.generated_tokens,
            "total_tokens": job.prompt_tokens + job.generated_tokens,
        },
        "metadata": dict(job.metadata),
        "seed": job.seed,
    }
