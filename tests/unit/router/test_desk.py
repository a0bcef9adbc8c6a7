"""The desk between clients, the job store, the ingest process and the state."""

import io
import json
from collections.abc import Callable

import anyio
import pytest

from common.errors import JobRefused
from services.router.desk import DeskLimits, JobDesk
from services.router.jobs import JobCancelled, LineFailed
from services.router.store_thread import StoreThread
from tests.support.jobs import FakeIngest, completion, finished, served, write_model

pytestmark = pytest.mark.anyio


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


def make_desk(store, ingest, state, *, seed=None, **limits):
    return JobDesk(
        store, ingest, state.post, clock=lambda: 50.0, seed=seed,
        limits=DeskLimits(**{"max_unfinished": 4, "max_job_lines": 100, **limits}),
    )  # fmt: skip


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
            desk.line_ended(finished(line, 65))
        desk.line_ended(LineFailed(line=state.lines[-1], code="server_error", message="broke"))

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
            desk.line_ended(finished(state.lines[number], 65))
        job = await ended(desk, job.job_id)

        tasks.cancel_scope.cancel()
    assert [line.number for line in state.lines] == list(range(7))


async def test_a_restart_takes_up_what_has_no_result(store, ingest, state):
    first = make_desk(store, ingest, state)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(first.run)
        job = await submit(first, completion("a"), completion("b"), seed=3)
        await state.has(lambda: len(state.lines) == 2)
        first.line_ended(finished(state.lines[0], 65))
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
        desk.line_ended(late)
        await state.has(lambda: len(state.lines) == 2)
        desk.line_ended(finished(state.lines[1], 65))
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
