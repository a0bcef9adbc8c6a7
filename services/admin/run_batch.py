"""`glinthawk run-batch`: a file of lines in, a file of results out."""

import os
import sys
import time
import uuid
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from common.errors import GlinthawkError, JobRefused
from services.admin.client import (
    JobStatus,
    ResultStream,
    RouterClient,
    RouterRefused,
    RouterUnreachable,
)
from services.admin.job_folder import JobFolder, JobRecord, digest_of
from services.admin.local_cluster import ClusterPlan, LocalCluster
from services.admin.part_file import PartFile
from services.admin.progress import JobProgress
from services.admin.report import print_report, write_report
from services.router.job_account import JobReport

T = TypeVar("T")

_TOKEN: Final = "run_batch"
"""Names the token among a job's metadata."""
_POLL_S = 0.2
_MAX_OUTAGE_S = 60.0
"""A router that is not ours may be away for so long."""


class JobFailed(GlinthawkError):
    """The job has no whole output; what there is stays, and the same command goes on with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchFiles:
    """Where a job reads and writes."""

    input: Path
    output: Path
    report: Path | None

    @property
    def part(self) -> Path:
        """The output while it grows; renamed when it is whole."""
        return self.output.with_name(self.output.name + ".part")

    def check(self) -> None:
        """See that the job can read and write before anything starts.

        Raises:
            JobRefused: It cannot; nothing was touched.
        """
        if not self.input.is_file() or not os.access(self.input, os.R_OK):
            raise JobRefused(f"{self.input} is not a file to be read: give a JSONL file with -i")
        if self.input.stat().st_size == 0:
            raise JobRefused(f"{self.input} is empty: it needs at least one line")
        for path in (self.output, self.report):
            if path is not None and not os.access(path.absolute().parent, os.W_OK):
                raise JobRefused(f"{path} cannot be written: its folder is missing or read-only")
            if path is not None and path.is_dir():
                raise JobRefused(f"{path} is a folder: give a file")
        files = [path.resolve() for path in (self.input, self.output, self.report) if path]
        if len(set(files)) < len(files):
            raise JobRefused("input, output and report are not all different files")


def run_batch(files: BatchFiles, cluster: ClusterPlan | LocalCluster | str) -> JobReport:
    """Run a job to its end; one that was begun with the same input and output goes on.

    Args:
        files: Input, output and report.
        cluster: What to start on this machine for this job; or a cluster that is ready, or the URL
            of its router.

    Raises:
        GlinthawkError: The job cannot run, or did not end well. `OUT` is as it was before.
    """
    files.check()
    with ExitStack() as stack:
        progress = stack.enter_context(JobProgress())
        if isinstance(cluster, ClusterPlan):
            store = {"data_directory": JobFolder(files.output).store}
            cluster = replace(cluster, router={**cluster.router, **store})
            progress.say(
                f"starting {cluster.layer_workers} layer and {cluster.attention_workers} "
                "attention workers on this machine"
            )
            cluster = stack.enter_context(LocalCluster(cluster))
            client = cluster.wait_until_ready()
        else:
            client = RouterClient(cluster if isinstance(cluster, str) else cluster.url)
        local = cluster if isinstance(cluster, LocalCluster) else None
        stack.callback(client.close)
        report = BatchRun(files, client, local, progress).run()
    if files.report is not None:
        write_report(report, files.report)
    return report


class BatchRun:
    """One command's part of a job: it may be ended at any moment, and the next one goes on."""

    def __init__(
        self,
        files: BatchFiles,
        client: RouterClient,
        local: LocalCluster | None,
        progress: JobProgress,
    ) -> None:
        self._files = files
        self._client = client
        self._local = local
        self._progress = progress
        self._folder = JobFolder(files.output)
        self._num_rows = 0
        self._job_id: str | None = None
        self._tokens_before = 0
        self._answered_s = 0.0
        """When the router last answered."""

    def run(self) -> JobReport:
        """Begin the job or go on with it, and write its output until it is whole.

        Raises:
            GlinthawkError: It cannot run, or did not end well.
        """
        self._tokens_before = self._steadily(self._client.generated_tokens)
        self._progress.start()
        self._answered_s = time.monotonic()
        try:
            self._job_id = self._steadily(lambda: self._find() or self._begin())
            with PartFile(self._files.part) as part:
                status = self._collect(self._job_id, part)
                self._check_end(status)
                part.finish(self._files.output)
        except KeyboardInterrupt:
            self._leave()
            raise
        finally:
            if not self._num_rows:
                self._files.part.unlink(missing_ok=True)
        report = self._report(self._job_id)
        self._folder.remove()
        return report

    def _steadily(self, ask: Callable[[], T]) -> T:
        """Ask a router of our own again when it has died, and was started again."""
        while True:
            try:
                return ask()
            except RouterUnreachable:
                if self._local is None:
                    raise
                self._wait()

    def _leave(self) -> None:
        """Let a cluster that is not ours do nothing for nobody; ours stops with the command."""
        if self._local is None and self._job_id is not None:
            with suppress(GlinthawkError):
                self._client.cancel(self._job_id)
        self._progress.say("the same command goes on with this job")

    def _find(self) -> str | None:
        """Go on with the job that an earlier command began; None if the router knows of none."""
        record = self._folder.find()
        jobs = self._client.jobs() if record else []
        ours = (job for job in jobs if record and job["metadata"].get(_TOKEN) == record.token)
        job = next(ours, None)
        if record is None or job is None:  # it is another cluster's, or never came to its begin
            return None
        self._folder.demand_same(record, digest_of(self._files.input))
        status = self._client.resume(str(job["job_id"]))
        if status.paused:
            raise JobRefused(status.paused)
        self._progress.say(f"going on: {status.num_done} of {status.total} lines are done")
        return status.job_id

    def _begin(self) -> str:
        record = JobRecord(token=uuid.uuid4().hex, input_sha256=digest_of(self._files.input))
        self._folder.begin(record)  # from here on the next command finds it, if there is a job
        try:
            file_id = self._client.upload(self._files.input)
            return self._client.create_job(file_id, {_TOKEN: record.token})
        except RouterRefused:
            if self._local is None:
                self._folder.remove()
            raise

    def _collect(self, job_id: str, part: PartFile) -> JobStatus:
        """Append results to `OUT.part` until the job has ended and all of them are there."""
        results = self._client.results(job_id)
        while not (status := self._take(job_id, results, part)) or not status.ended:
            self._wait()
        return status

    def _take(self, job_id: str, results: ResultStream, part: PartFile) -> JobStatus | None:
        """Append what is there by now; give None while no router answers."""

        def look() -> tuple[JobStatus, int]:
            status = self._client.job(job_id)
            for chunk in results.chunks():
                self._append(part, chunk)
            return status, max(0, self._client.generated_tokens() - self._tokens_before)

        if (seen := self._patiently(look)) is None:
            return None
        status, num_tokens = seen
        if status.paused:
            self._progress.warn(f"the job is paused: {status.paused}")
        self._progress.show(status.num_done, status.total, num_tokens)
        return status

    def _report(self, job_id: str) -> JobReport:
        """Wait until the workers have told the router what they did."""
        while (report := self._patiently(partial(self._client.report, job_id))) is None:
            self._wait()
        return report

    def _append(self, part: PartFile, chunk: bytes) -> None:
        while not part.append(chunk):
            self._progress.warn(f"no room for {self._files.part}: waiting, nothing is lost")
            self._wait()
        self._num_rows += chunk.count(b"\n")

    def _patiently(self, ask: Callable[[], T]) -> T | None:
        """Ask the router; give None while none answers, but not for ever if it is not ours."""
        try:
            answer = ask()
        except RouterUnreachable:
            if self._local is None and time.monotonic() - self._answered_s > _MAX_OUTAGE_S:
                raise
            return None
        self._answered_s = time.monotonic()
        return answer

    def _wait(self) -> None:
        if self._local is not None:
            for end in self._local.restart_dead():
                self._progress.say(f"{end}; it was started again")
        time.sleep(_POLL_S)

    def _check_end(self, status: JobStatus) -> None:
        if status.state != "completed" or self._num_rows != status.total:
            reason = f"{self._num_rows} of {status.total} lines have a result"
            raise JobFailed(
                f"the job ended as {status.state}, {reason}: the same command goes on with it"
            )


def tell(report: JobReport, files: BatchFiles) -> None:
    """Say where the output is and what the job did."""
    sys.stdout.write(f"{files.output}\n")
    print_report(report, sys.stdout)
