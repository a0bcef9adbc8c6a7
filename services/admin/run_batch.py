"""`glinthawk run-batch`: a file of lines in, a file of results out."""

import os
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from common.errors import GlinthawkError, JobRefused
from services.admin.client import JobStatus, ResultStream, RouterClient, RouterUnreachable
from services.admin.local_cluster import ClusterPlan, LocalCluster
from services.admin.progress import JobProgress
from services.admin.report import JobReport, Tally, make_report

_POLL_S = 0.2


class JobFailed(GlinthawkError):
    """The job ended without a whole output; what there is stays in `OUT.part`."""


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
    """Run a job to its end.

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
        report = _Job(files, client, local, progress).run()
    if files.report is not None:
        report.write(files.report)
    return report


class _Job:
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
        self._tally = Tally()
        self._tokens_before = 0

    def run(self) -> JobReport:
        before = self._client.fresh_status()
        self._tokens_before = before["totals"]["generated_tokens"]
        self._progress.start()
        started_s = time.monotonic()
        job_id = self._client.create_job(self._client.upload(self._files.input))
        try:
            status = self._collect(job_id)
        except KeyboardInterrupt:
            if self._local is None:  # else it ends with its cluster
                self._client.cancel(job_id)
            raise
        finally:
            if not self._tally.rows:
                self._files.part.unlink(missing_ok=True)
        self._check_end(status)
        wall_s = time.monotonic() - started_s
        self._files.part.replace(self._files.output)
        return make_report(self._tally, before, self._client.fresh_status(), wall_s)

    def _collect(self, job_id: str) -> JobStatus:
        """Append results to `OUT.part` until the job has ended and all of them are there."""
        results = self._client.results(job_id)
        try:
            with self._files.part.open("wb") as part:
                while not (status := self._take(job_id, results, part)) or not status.ended:
                    self._watch()
                    time.sleep(_POLL_S)
                part.flush()
                os.fsync(part.fileno())
        except OSError as error:
            raise JobFailed(f"{self._files.part} cannot be written: {error.strerror}") from error
        return status

    def _take(self, job_id: str, results: ResultStream, part: BinaryIO) -> JobStatus | None:
        """Append what is there by now; give None while a router of our own is started again."""
        try:
            status = self._client.job(job_id)
            for chunk in results.chunks():
                part.write(chunk)
                self._tally.add(chunk)
            num_tokens = max(0, self._client.generated_tokens() - self._tokens_before)
        except RouterUnreachable:
            if self._local is None:
                raise
            return None
        self._progress.show(status.num_done, status.total, num_tokens)
        return status

    def _watch(self) -> None:
        if self._local is not None:
            for end in self._local.restart_dead():
                self._progress.say(f"{end}; it was started again")

    def _check_end(self, status: JobStatus) -> None:
        if status.state != "completed" or self._tally.rows != status.total:
            reason = status.reason or f"{self._tally.rows} of {status.total} lines have a result"
            raise JobFailed(f"the job ended as {status.state}: {reason}")


def print_report(report: JobReport, files: BatchFiles) -> None:
    """Say where the output is and what the job did."""
    sys.stdout.write(f"{files.output}\n")
    report.print(sys.stdout)
