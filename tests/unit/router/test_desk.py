"""The desk between clients, the job store, the ingest process and the state."""

import errno
import io
import json
from collections.abc import Callable

import anyio
import pytest

from common.errors import JobRefused, StoreFull
from services.router.bookkeeper import Bookkeeper
from services.router.desk import JobDesk
from services.router.lines import ChoicePrefix, JobCancelled, LineFailed, PrefixGrown
from services.router.store.job_rules import JobRules
from services.router.store.job_store import JobStore
from services.router.store.store_thread import StoreThread
from tests.support.accounts import status
from tests.support.jobs import FakeIngest, completion, finished, served, write_model

pytestmark = pytest.mark.anyio

MADE_WITH = {"model": "tiny", "dtype": "bf16"}
RULES = {"max_unfinished": 4, "max_job_lines": 100, "made_with": MADE_WITH, "seed": None}


@pytest.fixture
def ingest(tmp_path):
    return FakeIngest(served(write_model(tmp_path / "model")))


@pytest.fixture
def store(tmp_path):
    store = StoreThread(tmp_path / "store")
    yield store
    store.close()


class FakeState:
    """Takes what the desk posts."""

    def __init__(self) -> None:
        self.events = []
        self._changed = anyio.Event()

    def post(self, event) -> None:
        self.events.append(event)
        self._changed.set()
        self._changed = anyio.Event()

    @property
    def lines(self):
        return [
            line for event in self.events if not isinstance(event, JobCancelled)
            for line in event.lines
        ]  # fmt: skip

    async def has(self, reached: Callable[[], bool]) -> None:
        while not reached():
            await self._changed.wait()


@pytest.fixture
def state():
    return FakeState()


def make_desk(store, ingest, state, **changes):
    return JobDesk(
        store,
        ingest,
        state.post,
        JobRules(**{**RULES, **changes}),
        Bookkeeper(store, status, {}),
        clock=lambda: 50.0,
    )


async def submit(desk, *texts, seed=None):
    content = "".join(f"{text}\n" for text in texts).encode()
    file = await desk.add_file("in.jsonl", io.BytesIO(content))
    return await desk.create_job(file.file_id, None, seed, {})


async def ended(desk, job_id):
    while True:
        job = await desk.job(job_id)
        if job.ended_at is not None:
            return job
        await anyio.lowlevel.checkpoint()


async def test_lines_go_to_the_state_and_results_to_the_disk(store, ingest, state):
    desk = make_desk(store, ingest, state)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(desk.run)
        job = await submit(desk, completion("a"), "{", completion("c"), completion("d"))
        await state.has(lambda: len(state.lines) == 3)
        for line in state.lines[:-1]:
            desk.keep(finished(line, 65))
        desk.keep(LineFailed(line=state.lines[-1], code="server_error", message="broke"))

        job = await ended(desk, job.job_id)

        tasks.cancel_scope.cancel()
    assert (job.state, job.num_completed, job.num_failed) == ("completed", 2, 2)
    results = [json.loads(text) for _, text in await desk.results(job.job_id, 0, 10)]
    assert [result["custom_id"] for result in results] == ["a", None, "c", "d"]


async def test_the_state_never_has_more_lines_than_allowed(store, ingest, state):
    desk = make_desk(store, ingest, state, max_unfinished=2)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(desk.run)
        job = await submit(desk, *[completion(str(number)) for number in range(7)])
        for number in range(7):
            await state.has(lambda number=number: len(state.lines) > number)
            assert len(state.lines) <= number + 2
            desk.keep(finished(state.lines[number], 65))
        job = await ended(desk, job.job_id)

        tasks.cancel_scope.cancel()
    assert [line.number for line in state.lines] == list(range(7))


async def test_the_choices_of_lines_count_and_not_the_lines(store, ingest, state):
    desk = make_desk(store, ingest, state, max_unfinished=3)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(desk.run)
        await submit(desk, *[completion(str(number), n=2) for number in range(5)])
        await state.has(lambda: len(state.lines) == 3)

        desk.keep(finished(state.lines[0], 65))
        desk.keep(finished(state.lines[1], 65))

        await state.has(lambda: len(state.lines) > 3)
        tasks.cancel_scope.cancel()
    assert [len(question.lines) for question in ingest.parsed] == [3, 1]


async def test_long_lines_are_asked_about_in_short_questions(store, ingest, state):
    desk = make_desk(store, ingest, state, max_unfinished=9)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(desk.run)

        await submit(desk, *[completion(str(number), user="x" * 100_000) for number in range(5)])

        await state.has(lambda: len(state.lines) == 5)
        tasks.cancel_scope.cancel()
    assert [len(question.lines) for question in ingest.parsed] == [3, 2]


async def test_a_restart_takes_up_what_has_no_result(store, ingest, state):
    first = make_desk(store, ingest, state)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(first.run)
        job = await submit(first, completion("a"), completion("b"), seed=3)
        await state.has(lambda: len(state.lines) == 2)
        first.keep(finished(state.lines[0], 65))
        while not await first.results(job.job_id, 0, 1):
            await anyio.lowlevel.checkpoint()
        tasks.cancel_scope.cancel()
    again = FakeState()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(make_desk(store, ingest, again).run)
        await again.has(lambda: bool(again.lines))
        tasks.cancel_scope.cancel()

    assert again.lines == state.lines[1:]


async def test_a_cancelled_job_leaves_the_state_and_takes_no_more_results(store, ingest, state):
    desk = make_desk(store, ingest, state, max_unfinished=1)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(desk.run)
        job = await submit(desk, completion("a"), completion("b"))
        other = await submit(desk, completion("c"))
        await state.has(lambda: len(state.lines) == 1)
        late = finished(state.lines[0], 65)

        await desk.cancel_job(job.job_id)

        assert JobCancelled(job_id=job.job_id) in state.events
        desk.keep(late)
        await state.has(lambda: len(state.lines) == 2)
        desk.keep(finished(state.lines[1], 65))
        await ended(desk, other.job_id)
        tasks.cancel_scope.cancel()
    assert state.lines[1].custom_id == "c"
    assert await desk.results(job.job_id, 0, 10) == []
    assert (await desk.job(job.job_id)).state == "cancelled"


async def test_jobs_are_first_come_first_served(store, ingest, state):
    desk = make_desk(store, ingest, state)
    first = await submit(desk, completion("a"), completion("b"))
    second = await submit(desk, completion("a"))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(desk.run)
        await state.has(lambda: len(state.lines) == 3)
        tasks.cancel_scope.cancel()

    assert [line.job_id for line in state.lines] == [first.job_id, first.job_id, second.job_id]


async def test_a_seed_is_the_jobs_or_the_settings_or_drawn(store, ingest, state):
    set_desk, desk = (make_desk(store, ingest, state, seed=seed) for seed in (9, None))

    assert (await submit(set_desk, completion(), seed=3)).seed == 3
    assert (await submit(set_desk, completion())).seed == 9
    assert (await submit(desk, completion())).seed != (await submit(desk, completion())).seed


async def test_a_job_without_lines_is_refused_and_forgotten(store, ingest, state):
    desk = make_desk(store, ingest, state)

    with pytest.raises(JobRefused, match="no lines"):
        await submit(desk, "", "  ")
    with pytest.raises(JobRefused, match="no file 'nothing'"):
        await desk.create_job("nothing", None, None, {})

    assert await desk.jobs() == []


async def test_a_job_of_bad_lines_alone_is_completed(store, ingest, state):
    desk = make_desk(store, ingest, state)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(desk.run)
        job = await submit(desk, "{", "[]")

        job = await ended(desk, job.job_id)

        tasks.cancel_scope.cancel()
    assert (job.state, job.num_failed) == ("completed", 2)


async def test_a_restart_goes_on_from_what_was_generated(store, ingest, state):
    again = FakeState()
    async with anyio.create_task_group() as tasks:
        first = make_desk(store, ingest, state)
        tasks.start_soon(first.run)
        job = await submit(first, completion("a"), completion("b"))
        await state.has(lambda: len(state.lines) == 2)
        first.keep(grown(job, 1, 65, 66))
        first.keep(finished(state.lines[0], 65))
        while not await first.results(job.job_id, 0, 1):
            await anyio.lowlevel.checkpoint()
        tasks.cancel_scope.cancel()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(make_desk(store, ingest, again).run)
        await again.has(lambda: bool(again.lines))
        tasks.cancel_scope.cancel()

    (line,) = again.lines
    assert line.prefixes == (ChoicePrefix(choice=0, token_ids=(65, 66)),)


async def test_a_desk_that_is_flushed_has_kept_all_news(store, ingest, state):
    desk = make_desk(store, ingest, state)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(desk.run)
        job = await submit(desk, completion("a"), completion("b"))
        await state.has(lambda: len(state.lines) == 2)
        tasks.cancel_scope.cancel()
        desk.keep(grown(job, 1, 65))
        desk.keep(finished(state.lines[0], 65))

    await desk.flush()

    assert len(await desk.results(job.job_id, 0, 9)) == 1
    assert list(await store.call(JobStore.prefixes, job.job_id, [0, 1])) == [1]


def fill_disk(store) -> None:
    """Let the store's file grow no further: what SQLite says then is what a full disk says."""
    store._connection.execute("PRAGMA max_page_count = 1")


def make_room(store) -> None:
    store._connection.execute("PRAGMA max_page_count = 1000000")


async def test_a_full_disk_pauses_jobs_until_there_is_room(store, ingest, state):
    desk = make_desk(store, ingest, state)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(desk.run)
        job = await submit(desk, completion("a"))
        await state.has(lambda: len(state.lines) == 1)
        await store.call(fill_disk)
        desk.keep(finished(state.lines[0], *[65] * 20_000))
        while desk.pause(job) is None:
            await anyio.lowlevel.checkpoint()
        reason, kept = desk.pause(job), await desk.results(job.job_id, 0, 9)

        await store.call(make_room)
        await desk.resume_job(job.job_id)

        job = await ended(desk, job.job_id)
        tasks.cancel_scope.cancel()
    assert "cannot be written: database or disk is full" in reason
    assert kept == []
    assert (job.state, job.num_completed) == ("completed", 1)
    assert desk.pause(job) is None


async def test_an_upload_to_a_full_disk_is_refused_and_leaves_nothing(store, ingest, state):
    class FullDisk(io.BytesIO):
        def read(self, *_):
            raise OSError(errno.ENOSPC, "No space left on device")

    desk = make_desk(store, ingest, state)

    with pytest.raises(StoreFull, match="No space left"):
        await desk.add_file("in.jsonl", FullDisk())

    folder = (await store.call(JobStore.file_path, "x")).parent
    assert list(folder.iterdir()) == []


async def test_a_job_is_not_resumed_with_other_settings(store, ingest, state):
    first = make_desk(store, ingest, state)
    job = await submit(first, completion("a"))
    other = make_desk(store, ingest, state, made_with={**MADE_WITH, "dtype": "fp32"})
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(other.run)
        later = await submit(other, completion("b"))
        await state.has(lambda: bool(state.lines))
        tasks.cancel_scope.cancel()

    assert [line.job_id for line in state.lines] == [later.job_id]
    assert "begun with dtype bf16 and not fp32" in other.pause(job)
    assert first.pause(job) is None


async def test_a_cancelled_job_goes_on_when_it_is_resumed(store, ingest, state):
    desk = make_desk(store, ingest, state)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(desk.run)
        job = await submit(desk, completion("a"), completion("b"))
        await state.has(lambda: len(state.lines) == 2)
        desk.keep(finished(state.lines[0], 65))
        while not await desk.results(job.job_id, 0, 1):
            await anyio.lowlevel.checkpoint()
        await desk.cancel_job(job.job_id)

        await desk.resume_job(job.job_id)

        await state.has(lambda: len(state.lines) == 3)
        desk.keep(finished(state.lines[2], 65))
        job = await ended(desk, job.job_id)
        tasks.cancel_scope.cancel()
    assert state.lines[2] == state.lines[1]
    assert (job.state, job.num_completed) == ("completed", 2)


async def test_a_job_that_is_resumed_while_its_lines_are_still_read_has_them_once(
    tmp_path, store, state
):
    class SlowIngest(FakeIngest):
        entered, release = anyio.Event(), anyio.Event()

        async def parse(self, question):
            self.entered.set()
            await self.release.wait()
            return await super().parse(question)

    ingest = SlowIngest(served(write_model(tmp_path / "model")))
    desk = make_desk(store, ingest, state)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(desk.run)
        job = await submit(desk, completion("a"), completion("b"))
        await ingest.entered.wait()
        await desk.cancel_job(job.job_id)

        await desk.resume_job(job.job_id)

        ingest.release.set()
        await state.has(lambda: len(state.lines) >= 2)
        for line in state.lines[:2]:
            desk.keep(finished(line, 65))
        await ended(desk, job.job_id)
        tasks.cancel_scope.cancel()
    assert [line.custom_id for line in state.lines] == ["a", "b"]


def grown(job, number, *token_ids):
    return PrefixGrown(
        job_id=job.job_id, number=number, choice=0, start=0, token_ids=token_ids, logprobs=None
    )
