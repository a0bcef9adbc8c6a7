"""The bookkeeper has a job's account on disk when the job has ended, whatever happens on the way."""

import pytest

from common.errors import StoreFull
from services.router.bookkeeper import Bookkeeper
from services.router.store.job_records import NewJob
from services.router.store.job_store import JobStore
from services.router.store.store_thread import StoreThread
from tests.support.accounts import status, worker

pytestmark = pytest.mark.anyio


@pytest.fixture
def store(tmp_path):
    store = StoreThread(tmp_path)
    yield store
    store.close()


class Cluster:
    """Says what the test says, and what time it is."""

    def __init__(self) -> None:
        self.now = 100.0
        self.heard_s = 0.0
        self.tokens = 0

    def clock(self) -> float:
        return self.now

    def look(self):
        told = {**worker("l0", "layer_worker", self.now), "last_heard_s": self.heard_s}
        return status(told, tokens=self.tokens)

    def work(self, seconds: float, tokens: int = 0) -> None:
        self.now += seconds
        self.heard_s += seconds
        self.tokens += tokens


@pytest.fixture
def cluster():
    return Cluster()


@pytest.fixture
def books(store, cluster):
    return Bookkeeper(store, cluster.look, {}, clock=cluster.clock)


@pytest.fixture
async def job_id(store):
    new = NewJob(file_id="f", endpoint=None, seed=0, metadata={}, made_with={})
    job_id = await store.call(JobStore.begin_job, new, 100.0)
    await store.call(JobStore.queue_job, job_id, 5, 100.0)
    return job_id


async def job(store, job_id):
    return await store.call(JobStore.job, job_id)


async def end(store, job_id, at_s):
    await store.call(JobStore.cancel_job, job_id, at_s)


async def test_a_running_job_has_a_report_so_far(books, store, cluster, job_id):
    await books.begin(job_id)
    cluster.work(2.0, tokens=60)

    await books.turn()

    report = await books.report(await job(store, job_id))
    assert (report.wall_s, report.tier1_busy, report.tokens_per_s[0]) == (2.0, 1.0, 60.0)


async def test_a_report_waits_until_the_workers_have_told_all(books, store, cluster, job_id):
    await books.begin(job_id)
    cluster.work(2.0)
    await end(store, job_id, at_s=101.0)
    await books.turn()
    cluster.now += 0.5
    await books.turn()

    early = await books.report(await job(store, job_id))
    cluster.work(0.5)
    await books.turn()

    assert early is None
    report = await books.report(await job(store, job_id))
    assert report.wall_s == 1.0


async def test_a_silent_worker_does_not_hold_a_report_up_for_ever(books, store, cluster, job_id):
    await books.begin(job_id)
    await end(store, job_id, at_s=100.0)

    for _ in range(10):
        await books.turn()

    assert await books.report(await job(store, job_id)) is not None


async def test_an_account_goes_on_in_the_next_life(books, store, cluster, job_id):
    await books.begin(job_id)
    cluster.work(2.0, tokens=10)
    await books.turn()
    await books.flush()
    again = Bookkeeper(store, cluster.look, {}, clock=cluster.clock)
    cluster.work(50.0)  # nobody was there

    await again.begin(job_id)
    cluster.work(1.0, tokens=5)
    await again.turn()

    report = await again.report(await job(store, job_id))
    assert (report.wall_s, sum(report.tokens_per_s)) == (3.0, 10 + 5)


async def test_a_job_that_ended_as_the_router_died_still_has_a_report(books, store, job_id):
    await books.begin(job_id)
    await end(store, job_id, at_s=100.0)

    again = Bookkeeper(store, Cluster().look, {})

    assert await again.report(await job(store, job_id)) is not None


async def test_a_job_that_has_not_begun_has_none(books, store, job_id):
    assert await books.report(await job(store, job_id)) is None


async def test_a_full_disk_holds_up_no_report(books, store, cluster, job_id, monkeypatch):
    await books.begin(job_id)
    await end(store, job_id, at_s=100.0)
    call = store.call

    async def full(method, *given):
        if method is JobStore.save_account:
            raise StoreFull("no room")
        return await call(method, *given)

    monkeypatch.setattr(store, "call", full)
    for _ in range(3):
        cluster.work(1.0)
        await books.turn()

    assert await books.report(await job(store, job_id)) is not None
    monkeypatch.undo()
    await books.turn()
    assert await store.call(JobStore.account, job_id) != "{}"


def test_nothing_is_looked_at_before_a_job_begins(store):
    looks = []

    Bookkeeper(store, lambda: looks.append(1), {})

    assert not looks
