"""A desk and a cluster for the HTTP API, in memory."""

import dataclasses

from common.errors import JobRefused
from common.ids import JobId
from services.router.job_store import Job, StoredFile

FILE = StoredFile(file_id="file-1", name="in.jsonl", size_bytes=3, created_at=7.0)
JOB = Job(
    job_id=JobId("batch_1"), state="running", created_at=8.0, ended_at=None, file_id="file-1",
    endpoint=None, seed=3, metadata={"a": "b"}, num_lines=4, num_completed=2, num_failed=1,
    prompt_tokens=10, generated_tokens=20,
)  # fmt: skip


class FakeDesk:
    """Jobs in memory."""

    def __init__(self) -> None:
        self.uploaded = b""
        self.kept = {JOB.job_id: JOB}
        self.finished = [(0, "{0}"), (1, "{1}"), (3, "{3}")]
        self.asked = ()

    async def add_file(self, name, source):
        self.uploaded = source.read()
        return dataclasses.replace(FILE, name=name)

    async def file(self, file_id):
        return FILE if file_id == FILE.file_id else None

    async def create_job(self, *asked):
        if asked[0] != FILE.file_id:
            raise JobRefused("there is no such file")
        self.asked = asked
        return JOB

    async def job(self, job_id):
        return self.kept.get(job_id)

    async def jobs(self):
        return list(self.kept.values())

    async def results(self, job_id, start, limit):
        return [line for line in self.finished if line[0] >= start][:limit]

    async def cancel_job(self, job_id):
        self.kept[job_id] = dataclasses.replace(JOB, state="cancelled", ended_at=9.0)


class FakeCluster:
    """A cluster that lacks what the test says."""

    def __init__(self) -> None:
        self.lacks = []

    def status(self):
        return {"members": 4}

    def missing(self):
        return self.lacks

    def model_names(self):
        return ("tiny",)
