"""The desk takes jobs in, hands their lines to the state and keeps what comes back.

Lines wait in the job store, not in memory: the desk reads only until the state has as many
unfinished choices as it may. A line counts as done when its result is durable.
"""

import asyncio
import secrets
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import BinaryIO, Final, Protocol

from common.errors import JobRefused
from common.ids import JobId
from common.log import get_logger
from services.router.bookkeeper import Bookkeeper
from services.router.job_account import JobReport
from services.router.lines import (
    JobCancelled,
    LineOutcome,
    LinesReady,
    ParsedLine,
    PrefixGrown,
)
from services.router.store.full_disk import FullDisk
from services.router.store.job_records import Job, NewJob, StoredFile
from services.router.store.job_rules import JobRules
from services.router.store.job_store import JobStore
from services.router.store.store_thread import StoreThread
from services.router.store.upload import keep_upload
from services.router.text.batch_file import Place
from services.router.text.ingest import (
    LINES_PER_QUESTION,
    SIZE_PER_QUESTION,
    LinesParsed,
    LinesRendered,
    ParseLines,
    RenderLines,
    one_question,
)
from services.router.text.line_parser import JobFacts

_EXPIRY_INTERVAL_S: Final = 10.0
"""Completion windows are minutes at least."""

OPEN_STATES: Final = ("queued", "running")

log = get_logger()


class Reading(Protocol):
    """What `services.router.text.ingest.Ingest` does."""

    async def parse(self, question: ParseLines) -> LinesParsed:
        """Have lines read."""
        ...

    async def render(self, question: RenderLines) -> LinesRendered:
        """Have results written."""
        ...


class JobDesk:
    """Stands between the HTTP API, the job store, the ingest process and the state."""

    def __init__(
        self,
        store: StoreThread,
        reading: Reading,
        post: Callable[[LinesReady | JobCancelled], None],
        rules: JobRules,
        books: Bookkeeper,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Take up nothing yet: `run` does.

        Args:
            store: Open.
            reading: The ingest process.
            post: Tells the state, on the router's loop.
            rules: The settings about jobs.
            books: The accounts of jobs.
            clock: Unix seconds.
        """
        self._store = store
        self._reading = reading
        self._post = post
        self._rules = rules
        self._books = books
        self._clock = clock
        self._waiting: dict[JobId, _Source] = {}
        """Jobs with lines that were not taken from the store yet, first come first."""
        self._unfinished: dict[tuple[JobId, int], int] = {}
        """Lines that the state has, or whose results are on their way to the disk; their choices."""
        self._grown: list[PrefixGrown] = []
        self._ended: list[LineOutcome] = []
        """What the state has said and is not durable yet."""
        self._may_feed = asyncio.Event()
        self._has_news = asyncio.Event()
        self._disk = FullDisk()

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
            tasks.create_task(self._books.run())

    def keep(self, news: LineOutcome | PrefixGrown) -> None:
        """Carry out the state's effect: have it written, results in OpenAI's words."""
        if isinstance(news, PrefixGrown):
            self._grown.append(news)
        else:
            self._ended.append(news)
        self._has_news.set()

    async def flush(self) -> None:
        """Make all news durable, at the end of an orderly life; `run` has ended.

        Raises:
            StoreFull: The disk takes nothing more.
        """
        await self._keep_all()
        await self._books.flush()

    def pause(self, job: Job) -> str | None:
        """Say why an open job does not go on; None if it does."""
        if job.state not in OPEN_STATES:
            return None
        return self._disk.reason or self._rules.difference(job)

    # For clients

    async def add_file(self, name: str, source: BinaryIO) -> StoredFile:
        """Keep an uploaded batch file.

        Raises:
            StoreFull: There is no room for it.
        """
        file_id = f"file-{uuid.uuid4().hex[:16]}"
        path = await self._store.call(JobStore.file_path, file_id)
        size_bytes = await asyncio.to_thread(keep_upload, source, path)
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
        drawn = self._rules.seed if self._rules.seed is not None else secrets.randbits(63)
        new = NewJob(
            file_id=file_id,
            endpoint=endpoint,
            seed=drawn if seed is None else seed,
            metadata=metadata,
            completion_window=completion_window,
            made_with=self._rules.made_with,
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

    async def report(self, job: Job) -> JobReport | None:
        """Sum a job up; None before it begins, and for a moment after it has ended."""
        return await self._books.report(job)

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
        for line in [line for line in self._unfinished if line[0] == job_id]:
            del self._unfinished[line]
        self._post(JobCancelled(job_id=job_id))
        self._may_feed.set()

    async def resume_job(self, job_id: JobId) -> None:
        """Let a cancelled job go on, and try at once what waits for room on the disk."""
        before = await self._store.call(JobStore.job, job_id)
        await self._store.call(JobStore.resume_job, job_id)
        after = await self._store.call(JobStore.job, job_id)
        if before != after and after is not None:
            self._take_up(after)
        self._disk.retry()

    # Inside

    async def _load(self, job_id: JobId) -> Job:
        place, after = None, Place()
        while place != after:
            place = after
            after = await self._store.call(JobStore.load_lines, job_id, place, self._clock())
            if after.number > self._rules.max_job_lines:
                message = f"more than {self._rules.max_job_lines} lines: split the file, or raise the limit"
                raise JobRefused(message)
        if after.number == 0:
            message = "the file has no lines"
            raise JobRefused(message)
        return await self._store.call(JobStore.queue_job, job_id, after.number, self._clock())

    def _take_up(self, job: Job) -> None:
        if reason := self._rules.difference(job):
            log.warning("job is paused", job_id=job.job_id, reason=reason)
            return
        facts = JobFacts(job_id=job.job_id, endpoint=job.endpoint, seed=job.seed)
        self._waiting[job.job_id] = _Source(facts)
        self._may_feed.set()

    async def _feed(self) -> None:
        while True:
            await self._may_feed.wait()
            self._may_feed.clear()
            while self._waiting and (room := self._room()) > 0:
                source = next(iter(self._waiting.values()))
                max_lines = min(room, LINES_PER_QUESTION)
                await self._disk.outlast(partial(self._feed_from, source, max_lines))

    def _room(self) -> int:
        return self._rules.max_unfinished - sum(self._unfinished.values())

    async def _feed_from(self, source: "_Source", max_lines: int) -> None:
        job_id = source.facts.job_id
        await self._books.begin(job_id)
        lines, next_place = await self._store.call(
            JobStore.take_lines, job_id, source.next_place, max_lines, SIZE_PER_QUESTION
        )
        if not lines:
            if self._waiting.get(job_id) is source:
                del self._waiting[job_id]
            return
        parsed = await self._reading.parse(ParseLines(job=source.facts, lines=tuple(lines)))
        if parsed.refused:
            await self._store.call(JobStore.save_results, parsed.refused, self._clock())
        source.next_place = next_place
        begun = await self._with_prefixes(job_id, parsed.lines)
        # Else it was cancelled meanwhile, and may have been resumed, from its beginning.
        if begun and self._waiting.get(job_id) is source:
            self._unfinished.update({(job_id, line.number): line.num_choices for line in begun})
            self._post(LinesReady(lines=begun))

    async def _with_prefixes(
        self, job_id: JobId, lines: tuple[ParsedLine, ...]
    ) -> tuple[ParsedLine, ...]:
        """Add to lines what earlier lives had generated of them."""
        numbers = [line.number for line in lines]
        prefixes = await self._store.call(JobStore.prefixes, job_id, numbers)
        return tuple(replace(line, prefixes=prefixes.get(line.number, ())) for line in lines)

    async def _keep(self) -> None:
        while True:
            await self._has_news.wait()
            self._has_news.clear()
            await self._disk.outlast(self._keep_all)

    async def _expire(self) -> None:
        while True:
            await asyncio.sleep(_EXPIRY_INTERVAL_S)
            await self._disk.outlast(self._expire_some)

    async def _expire_some(self) -> None:
        for job_id in await self._store.call(JobStore.expire_jobs, self._clock()):
            self._drop(job_id)

    async def _keep_all(self) -> None:
        """Write all news; what could not be written is still news."""
        while self._grown:
            grown = [one for one in self._grown if self._wants(one.job_id, one.number)]
            num_taken = len(self._grown)
            await self._store.call(JobStore.save_prefixes, grown)
            del self._grown[:num_taken]
        while self._ended:
            taken = one_question(self._ended)
            await self._keep_some(
                [one for one in taken if self._wants(one.line.job_id, one.line.number)]
            )
            del self._ended[: len(taken)]

    def _wants(self, job_id: JobId, number: int) -> bool:
        return (job_id, number) in self._unfinished

    async def _keep_some(self, outcomes: Sequence[LineOutcome]) -> None:
        now = self._clock()
        rendered = await self._reading.render(
            RenderLines(outcomes=tuple(outcomes), created=int(now))
        )
        await self._store.call(JobStore.save_results, rendered.results, now)
        for result in rendered.results:
            self._unfinished.pop((result.job_id, result.number), None)
        self._may_feed.set()


@dataclass(slots=True)
class _Source:
    """A job with lines that were not taken from the store yet."""

    facts: JobFacts
    next_place: int = 0
