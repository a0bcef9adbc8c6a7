"""The router's HTTP API, as the commands use it."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from pydantic import TypeAdapter

from common.config import load_settings
from common.errors import GlinthawkError
from services.admin.access import AdminSettings, trusted
from services.router.job_account import JobReport

_UPLOAD_TIMEOUT_S = 600.0
_STREAM_TIMEOUT = httpx.Timeout(30.0, read=None)
"""The first token waits for its turn."""
_REPORT: TypeAdapter[JobReport | None] = TypeAdapter(JobReport | None)


class RouterUnreachable(GlinthawkError):
    """No router answers at this address."""


class RouterRefused(GlinthawkError):
    """The router answered with an error; its message is ours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobStatus:
    """How far a job is."""

    job_id: str
    state: str
    """`queued`, `running`, `completed`, `expired` or `cancelled`."""
    paused: str | None
    """Why it does not go on, if it should."""
    total: int
    completed: int
    failed: int

    @classmethod
    def of(cls, shown: Mapping[str, Any]) -> "JobStatus":
        """Read a job as the router shows it."""
        return cls(
            job_id=str(shown["job_id"]),
            state=str(shown["state"]),
            paused=shown["paused"],
            total=int(shown["num_lines"]),
            completed=int(shown["num_completed"]),
            failed=int(shown["num_failed"]),
        )

    @property
    def ended(self) -> bool:
        """Nothing more will come of it."""
        return self.state in ("completed", "expired", "cancelled")

    @property
    def num_done(self) -> int:
        """Lines that have their result."""
        return self.completed + self.failed


class RouterClient:
    """Talks to one router. Every failure is a `RouterUnreachable` or a `RouterRefused`."""

    def __init__(self, url: str) -> None:
        """Prepare to talk, with the key and the certificates that the settings name.

        Raises:
            RouterUnreachable: This is no URL.
            SettingsError: The certificates cannot be read.
        """
        settings = load_settings(AdminSettings, {})
        key = settings.api_key.get_secret_value()
        self.url = url
        try:
            # No proxy of the environment: a cluster is on this machine or beside it.
            self._http = httpx.Client(
                base_url=url,
                timeout=30.0,
                trust_env=False,
                headers={"authorization": f"Bearer {key}"} if key else {},
                verify=trusted(settings) if url.startswith("https:") else False,
            )
        except httpx.InvalidURL as error:
            raise RouterUnreachable(f"{url} is no URL ({error})") from error

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def is_ready(self) -> bool:
        """Ask whether the cluster can serve; False also while nothing listens."""
        try:
            return self._http.get("/readyz").status_code == httpx.codes.OK
        except httpx.TransportError:
            return False

    def upload(self, path: Path) -> str:
        """Give a batch file to the router.

        Returns:
            The file's id.
        """
        with path.open("rb") as file:
            answer = self._ask(
                "POST",
                "/v1/files",
                data={"purpose": "batch"},
                files={"file": (path.name, file, "application/jsonl")},
                timeout=_UPLOAD_TIMEOUT_S,
            )
        return str(answer["id"])

    def create_job(self, file_id: str, metadata: Mapping[str, str] | None = None) -> str:
        """Start a job whose lines may go to any endpoint.

        Returns:
            The job's id.
        """
        body = {"input_file_id": file_id, "metadata": metadata}
        # The router has stored every line when it answers.
        answer = self._ask("POST", "/v1/batches", json=body, timeout=_UPLOAD_TIMEOUT_S)
        return str(answer["id"])

    def jobs(self) -> list[dict[str, Any]]:
        """List all jobs with all that the router keeps about them, in the order they came."""
        return list(self._ask("GET", "/admin/jobs")["jobs"])

    def job(self, job_id: str) -> JobStatus:
        """Ask how far a job is."""
        return JobStatus.of(self.show_job(job_id))

    def show_job(self, job_id: str) -> dict[str, Any]:
        """Give all that the router keeps about a job."""
        return self._ask("GET", f"/admin/jobs/{job_id}")

    def report(self, job_id: str) -> JobReport | None:
        """Ask what a job did; None for a moment after its end."""
        answer = self.request("GET", f"/admin/jobs/{job_id}/report")
        return _REPORT.validate_json(answer.content)

    def resume(self, job_id: str) -> JobStatus:
        """Let a cancelled job go on; any other is as it was."""
        return JobStatus.of(self._ask("POST", f"/admin/jobs/{job_id}/resume"))

    def results(self, job_id: str) -> "ResultStream":
        """Read a job's results in input order, as they come."""
        return ResultStream(self, job_id)

    def cancel(self, job_id: str) -> None:
        """Stop a job; what is finished stays."""
        self._ask("POST", f"/admin/jobs/{job_id}/cancel")

    def generated_tokens(self) -> int:
        """Ask how many tokens came home since the router started."""
        return int(self.status()["totals"]["generated_tokens"])

    def status(self) -> dict[str, Any]:
        """Ask what the cluster is doing."""
        return self._ask("GET", "/admin/status")

    def steps(self) -> list[dict[str, Any]]:
        """Ask for the microbatches that came home last."""
        steps: list[dict[str, Any]] = self._ask("GET", "/admin/steps")["steps"]
        return steps

    def drain(self, worker_id: str, deadline_s: float) -> None:
        """Let a worker leave, at the latest after the deadline."""
        path = f"/admin/workers/{worker_id}/drain"
        self._ask("POST", path, params={"deadline_s": deadline_s})

    def stream(self, path: str, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Ask for an answer in pieces, and give each as it comes.

        Raises:
            RouterUnreachable: Nobody answers, or the answer broke off.
            RouterRefused: The request is refused, or failed on the way.
        """
        try:
            with self._http.stream("POST", path, json=body, timeout=_STREAM_TIMEOUT) as answer:
                if answer.is_error:
                    answer.read()
                    raise self._failure(answer)
                for line in answer.iter_lines():
                    if line.startswith("data: {"):
                        yield _piece(line.removeprefix("data: "))
        except httpx.TransportError as error:
            message = f"no router answers at {self.url} ({error}): is the cluster up?"
            raise RouterUnreachable(message) from error

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Ask the router, and raise for whatever is not a success."""
        try:
            response = self._http.request(method, path, **options)
        except httpx.TransportError as error:
            message = f"no router answers at {self.url} ({error}): is the cluster up?"
            raise RouterUnreachable(message) from error
        if response.is_error:
            raise self._failure(response)
        return response

    def _failure(self, response: httpx.Response) -> GlinthawkError:
        try:
            return RouterRefused(str(response.json()["error"]["message"]))
        except (ValueError, KeyError, TypeError):
            path, code = response.request.url.path, response.status_code
            return RouterUnreachable(
                f"what answers at {self.url} is no router ({path}: HTTP {code}): give its URL"
            )

    def _ask(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        response = self.request(method, path, **options)
        try:
            answer: dict[str, Any] = response.json()
        except ValueError as error:
            raise RouterUnreachable(
                f"what answers at {self.url} is no router: give its URL"
            ) from error
        return answer


class ResultStream:
    """The finished lines of a job, each given once and in input order."""

    def __init__(self, client: RouterClient, job_id: str) -> None:
        self._client = client
        self._path = f"/admin/jobs/{job_id}/results"
        self._next = 0

    def chunks(self) -> Iterator[bytes]:
        """Give the JSONL that can be read by now, whole lines only."""
        while True:
            response = self._client.request("GET", self._path, params={"after": self._next})
            if not response.content:
                return
            self._next = int(response.headers["x-next"])
            yield response.content


def _piece(text: str) -> dict[str, Any]:
    piece: dict[str, Any] = json.loads(text)
    if "error" in piece:
        raise RouterRefused(str(piece["error"]["message"]))
    return piece
