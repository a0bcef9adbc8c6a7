"""What the job store keeps about jobs and uploaded files, as its callers see it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from common.ids import JobId

JobState = Literal["loading", "queued", "running", "completed", "expired", "cancelled"]
"""A job is loading while its lines come in; a router that finds such a job drops it."""

_WINDOW_UNITS_S: Final = {"m": 60.0, "h": 3600.0, "d": 86400.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFile:
    """An uploaded batch file."""

    file_id: str
    name: str
    size_bytes: int
    created_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A job as it stands. Times are Unix seconds."""

    job_id: JobId
    state: JobState
    created_at: float
    ended_at: float | None
    file_id: str
    endpoint: str | None
    """The one url of its lines; None = each as it likes."""
    seed: int
    metadata: Mapping[str, str]
    made_with: Mapping[str, str]
    """What decides about the bits of its tokens: settings by name."""
    completion_window: str | None
    """As the client spelled it."""
    expires_at: float | None
    """When what is not done by then gets an error line; None = never."""
    num_lines: int
    num_completed: int
    num_failed: int
    prompt_tokens: int
    generated_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NewJob:
    """What a client says about a job."""

    file_id: str
    endpoint: str | None
    seed: int
    metadata: Mapping[str, str]
    made_with: Mapping[str, str]
    completion_window: str | None = None
    """Such as `24h`."""


def window_s(window: str) -> float:
    """Give the seconds of a completion window: a number of minutes, hours or days."""
    return int(window[:-1]) * _WINDOW_UNITS_S[window[-1]]
