"""The desk takes jobs in, hands their lines to the state and keeps what comes back.

Lines wait in the job store, not in memory: the desk reads only as far ahead as the state may have
unfinished lines. A line counts as done when its result is durable.
"""

import asyncio
import secrets
import shutil
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, Protocol

from common.errors import JobRefused
from common.ids import JobId
from services.router.batch_file import Place
from services.router.ingest import LinesParsed, LinesRendered, ParseLines, RenderLines
from services.router.job_records import Job, NewJob, StoredFile
from services.router.job_store import JobStore
from services.router.jobs import JobCancelled, LineOutcome, LinesReady
from services.router.lines import JobFacts
from services.router.store_thread import StoreThread

_LINES_PER_QUESTION: Final = 32
"""Lines that the ingest process is asked about at once: it serves both directions."""

_EXPIRY_INTERVAL_S: Final = 10.0
"""Completion windows are minutes at least."""

OPEN_STATES: Final = ("queued", "running")


class Reading(Protocol):
    """What `services.router.ingest.Ingest` does."""

    async def parse(self, question: ParseLines) -> LinesParsed:
        """Have lines read."""
        ...

    async def render(self, question: RenderLines) -> LinesRendered:
        """Have results written."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class DeskLimits:
    """How many lines may be where."""

    max_unfinished: int
    """Lines that the state may have, running and waiting."""
    max_job_lines: int
    """Lines of one job."""


class JobDesk:
    """Stands between the HTTP API, the job store, the ingest process and the state."""

    def __init__(
        self,
        store: StoreThread,
        reading: Reading,
        post: Callable[[LinesReady | JobCancelled], None],
        *,
        limits: DeskLimits,
        seed: int | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Take up nothing yet: `run` does.

        Args:
            store: Open.
            reading: The ingest process.
            post: Tells the state, on the router's loop.
            limits: How many lines may be where.
            seed: For jobs that bring none; by default drawn for each.
            clock: Unix seconds.
        """
        self._store = store
        self._reading = reading
        self._post = post
        self._limits = limits
        self._seed = seed
        self._clock = clock
        self._waiting: dict[JobId, _Source] = {}
        """Jobs with lines that were not taken from the store yet, first come first."""
        self._unfinished: set[tuple[JobId, int]] = set()
        """Lines that the state has, or whose results are on their way to the disk."""
        self._ended: list[LineOutcome] = []
        self._may_feed = asyncio.Event()
        self._has_ended = asyncio.Event()

    async def run(self) -> None:
        """Feed the state and keep its results, beginning with the jobs of earlier lives.

        Raises:
            IngestLost: The ingest process has ended; the job store can take another try.
        """
        for job in await self._store.call(JobStore.jobs):
            if job.state in OPEN_STATES:
                self._take_up(job)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._feed())
            tasks.create_task(self._keep())
            tasks.create_task(self._expire())

    def line_ended(self, outcome: LineOutcome) -> None:
        """Carry out the state's effect: have the line's result written."""
        self._ended.append(outcome)
        self._has_ended.set()

    # For clients

    async def add_file(self, name: str, source: BinaryIO) -> StoredFile:
        """Keep an uploaded batch file."""
        file_id = f"file-{uuid.uuid4().hex[:16]}"
        path = await self._store.call(JobStore.file_path, file_id)
        size_bytes = await asyncio.to_thread(_copy, source, path)
        file = StoredFile(
            file_id=file_id, name=name, size_bytes=size_bytes, created_at=self._clock()
        )
        await self._store.call(JobStore.add_file, file)
        return file

    async def file(self, file_id: str) -> StoredFile | None:
        """Give an uploaded file, if there is one of this id."""
        return await self._store.call(JobStore.file, file_id)

    async def files(self) -> list[StoredFile]:
        """Give all uploaded files, in the order they came."""
        return await self._store.call(JobStore.files)

    async def file_path(self, file_id: str) -> Path:
        """Give the place of an uploaded file."""
        return await self._store.call(JobStore.file_path, file_id)

    async def delete_file(self, file_id: str) -> bool:
        """Forget an uploaded file; False if there is none of this id."""
        return await self._store.call(JobStore.delete_file, file_id)

    async def create_job(
        self,
        file_id: str,
        endpoint: str | None,
        seed: int | None,
        metadata: Mapping[str, str],
        completion_window: str | None = None,
    ) -> Job:
        """Store the lines of an uploaded file as a job, and let it run.

        Raises:
            JobRefused: There is no such file, or it has no lines or too many.
        """
        if await self.file(file_id) is None:
            message = f"there is no file '{file_id}': upload it first"
            raise JobRefused(message)
        drawn = self._seed if self._seed is not None else secrets.randbits(63)
        new = NewJob(
            file_id=file_id,
            endpoint=endpoint,
            seed=drawn if seed is None else seed,
            metadata=metadata,
            completion_window=completion_window,
        )
        job_id = await self._store.call(JobStore.begin_job, new, self._clock())
        try:
            job = await self._load(job_id)
        except BaseException:
            await asyncio.shield(self._store.call(JobStore.drop_job, job_id))
            raise
        self._take_up(job)
        return job

    async def job(self, job_id: str) -> Job | None:
        """Give a job, if there is one of this id."""
        return await self._store.call(JobStore.job, job_id)

    async def jobs(self) -> list[Job]:
        """Give all jobs, in the order they came."""
        return await self._store.call(JobStore.jobs)

    async def results(
        self, job_id: JobId, start: int, limit: int, ok: bool | None = None
    ) -> list[tuple[int, str]]:
        """Give finished lines, (number, result), in input order, from a number on.

        With `ok` only the successful ones, or only the others.
        """
        return await self._store.call(JobStore.results, job_id, start, limit, ok)

    async def results_size(self, job_id: JobId, ok: bool) -> int:
        """Count the bytes of a job's results as a file, the successful ones or the others."""
        return await self._store.call(JobStore.results_size, job_id, ok)

    async def cancel_job(self, job_id: JobId) -> None:
        """End a job that has not ended; what is finished stays."""
        await self._store.call(JobStore.cancel_job, job_id, self._clock())
        self._drop(job_id)

    def _drop(self, job_id: JobId) -> None:
        """Let go of a job that has ended in the store."""
        self._waiting.pop(job_id, None)
        self._unfinished = {line for line in self._unfinished if line[0] != job_id}
        self._post(JobCancelled(job_id=job_id))
        self._may_feed.set()

    # Inside

    async def _load(self, job_id: JobId) -> Job:
        place, after = None, Place()
        while place != after:
            place = after
            after = await self._store.call(JobStore.load_lines, job_id, place, self._clock())
            if after.number > self._limits.max_job_lines:
                message = f"more than {self._limits.max_job_lines} lines: split the file, or raise the limit"
                raise JobRefused(message)
        if after.number == 0:
            message = "the file has no lines"
            raise JobRefused(message)
        return await self._store.call(JobStore.queue_job, job_id, after.number, self._clock())

    def _take_up(self, job: Job) -> None:
        facts = JobFacts(job_id=job.job_id, endpoint=job.endpoint, seed=job.seed)
        self._waiting[job.job_id] = _Source(facts)
        self._may_feed.set()

    async def _feed(self) -> None:
        while True:
            await self._may_feed.wait()
            self._may_feed.clear()
            while self._waiting and (room := self._room()) > 0:
                source = next(iter(self._waiting.values()))
                await self._feed_from(source, min(room, _LINES_PER_QUESTION))

    def _room(self) -> int:
        return self._limits.max_unfinished - len(self._unfinished)

    async def _feed_from(self, source: "_Source", max_lines: int) -> None:
        job_id = source.facts.job_id
        lines = await self._store.call(JobStore.take_lines, job_id, source.next_number, max_lines)
        if not lines:
            self._waiting.pop(job_id, None)
            return
        source.next_number = lines[-1][0] + 1
        parsed = await self._reading.parse(ParseLines(job=source.facts, lines=tuple(lines)))
        await self._store.call(JobStore.save_results, parsed.refused, self._clock())
        if parsed.lines and job_id in self._waiting:  # else it was cancelled meanwhile
            self._unfinished.update((job_id, line.number) for line in parsed.lines)
            self._post(LinesReady(lines=parsed.lines))

    async def _keep(self) -> None:
        while True:
            await self._has_ended.wait()
            self._has_ended.clear()
            while self._ended:
                outcomes = self._ended[:_LINES_PER_QUESTION]
                del self._ended[:_LINES_PER_QUESTION]
                await self._keep_some([one for one in outcomes if self._wants(one)])

    async def _expire(self) -> None:
        while True:
            await asyncio.sleep(_EXPIRY_INTERVAL_S)
            for job_id in await self._store.call(JobStore.expire_jobs, self._clock()):
                self._drop(job_id)

    def _wants(self, outcome: LineOutcome) -> bool:
        return (outcome.line.job_id, outcome.line.number) in self._unfinished

    async def _keep_some(self, outcomes: Sequence[LineOutcome]) -> None:
        now = self._clock()
        rendered = await self._reading.render(
            RenderLines(outcomes=tuple(outcomes), created=int(now))
        )
        await self._store.call(JobStore.save_results, rendered.results, now)
        self._unfinished -= {(result.job_id, result.number) for result in rendered.results}
        self._may_feed.set()


@dataclass(slots=True)
class _Source:
    """A job with lines that were not taken from the store yet."""

    facts: JobFacts
    next_number: int = 0


def _copy(source: BinaryIO, path: Path) -> int:
    """Copy to the disk; the file has its name only when it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    try:
        with part.open("wb") as target:
            shutil.copyfileobj(source, target, 2**20)
            size_bytes = target.tell()
        part.rename(path)
    finally:
        part.unlink(missing_ok=True)
    return size_bytes
