"""What stands behind the HTTP API in tests: jobs in memory, and a state that answers at once."""

import dataclasses
from pathlib import Path

import anyio

from common.errors import JobRefused
from common.ids import JobId
from common.runtime.counters import Counters
from common.runtime.metrics import Metrics
from services.router.drains import DrainRefused
from services.router.lines import LineFailed, LinesReady, TokenStreamed
from services.router.metrics import RouterMetrics
from services.router.store.job_records import Job, StoredFile
from tests.support.accounts import report, status
from tests.support.jobs import finished

TOKENS = (66, 66, 67)
"""What every call generates."""

FILE = StoredFile(file_id="file-1", name="in.jsonl", size_bytes=3, created_at=7.0)
JOB = Job(
    job_id=JobId("batch_1"), state="running", created_at=8.0, ended_at=None, file_id="file-1",
    endpoint=None, seed=3, metadata={"a": "b"}, completion_window="1h", expires_at=3608.0, made_with={"dtype": "bf16"},
    num_lines=4, num_completed=2, num_failed=1, prompt_tokens=10, generated_tokens=20,
)  # fmt: skip

REPORT = report(status(), status())


class FakeDesk:
    """Jobs in memory."""

    def __init__(self) -> None:
        self.uploaded = b""
        self.kept = {JOB.job_id: JOB}
        self.finished = [(0, "{0}", True), (1, "{1}", False), (3, "{3}", True)]
        self.asked = ()
        self.stored = [FILE]

    async def add_file(self, name, source):
        self.uploaded = source.read()
        return dataclasses.replace(FILE, name=name)

    async def file(self, file_id):
        return next((file for file in self.stored if file.file_id == file_id), None)

    async def files(self):
        return self.stored

    async def file_path(self, file_id):
        return Path(__file__)  # some file

    async def delete_file(self, file_id):
        kept = [file for file in self.stored if file.file_id != file_id]
        kept, self.stored = self.stored, kept
        return len(kept) > len(self.stored)

    async def create_job(self, *asked):
        if asked[0] != FILE.file_id:
            raise JobRefused("there is no such file")
        self.asked = asked
        return JOB

    async def job(self, job_id):
        return self.kept.get(job_id)

    async def jobs(self):
        return list(self.kept.values())

    async def report(self, job):
        return REPORT if job.ended_at is not None else None

    async def results(self, job_id, start, limit, ok=None):
        wanted = [line[:2] for line in self.finished if ok in (None, line[2])]
        return [line for line in wanted if line[0] >= start][:limit]

    async def results_size(self, job_id, ok):
        return sum(len(text) + 1 for _, text in await self.results(job_id, 0, 10, ok))

    async def cancel_job(self, job_id):
        self.kept[job_id] = dataclasses.replace(JOB, state="cancelled", ended_at=9.0)

    async def resume_job(self, job_id):
        self.kept[job_id] = JOB

    def pause(self, job):
        return "the disk is full" if job.ended_at is None else None


class FakeCluster:
    """A cluster that lacks what the test says."""

    def __init__(self) -> None:
        self.lacks = []

    def status(self):
        return {"ready": True, "workers": [{"worker_id": "layer-0"}]}

    def steps(self):
        return [{"microbatch_id": 7}]

    def missing(self):
        return self.lacks

    def model_names(self):
        return ("tiny",)

    def max_model_len(self):
        return 100

    def drain(self, worker_id, deadline_s):
        if worker_id == "last":
            raise DrainRefused("it is the last of its kind")
        self.drained = (worker_id, deadline_s)


class FakeState:
    """Generates the same tokens for whatever is posted, as far as the test lets it."""

    def __init__(self) -> None:
        self.events = []
        self.calls = None
        self.num_tokens = len(TOKENS)
        self.failure = None
        self.asked = anyio.Event()

    def post(self, event) -> None:
        self.events.append(event)
        if isinstance(event, LinesReady):
            (line,) = event.lines
            self.asked.set()
            if self.failure is not None:
                self.calls.takes(LineFailed(line=line, code="no", message="no", **self.failure))
            else:
                self._generate(line)

    def _generate(self, line) -> None:
        outcome = finished(line, *TOKENS)
        for choice, ended in enumerate(outcome.choices if line.streaming else ()):
            for place, token_id in enumerate(TOKENS[: self.num_tokens]):
                last = place == len(TOKENS) - 1
                self.calls.takes(
                    TokenStreamed(
                        job_id=line.job_id,
                        choice=choice,
                        token_id=token_id,
                        logprobs=None,
                        ended=ended if last else None,
                    )
                )
        if self.num_tokens == len(TOKENS):
            self.calls.takes(outcome)


def router_metrics() -> RouterMetrics:
    """A router's metrics that nobody has added to."""
    return RouterMetrics(Metrics(Counters()))
