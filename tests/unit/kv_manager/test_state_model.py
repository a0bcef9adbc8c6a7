"""Whatever the router says, in whatever order: no page is lost, and none is written by two.

A naive model knows pools only from messages: which request holds which pages, which pages are
sealed with what, and nothing about order, load or eviction. After every step invariants 1 and 2 of
the design are checked on the manager itself, and each answer against the model.
"""

from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from common.ids import Epoch, PageId, RequestId, WorkerId
from common.messages import (
    Message,
    PagesReleased,
    PagesReserved,
    PrefixAwaited,
    ReleasePages,
    ReservePages,
    ReserveRefused,
    RouterHeartbeat,
    WorkerLeaving,
)
from services.kv_manager.prefix_index import split_hashes
from tests.support.kv import (
    CPU_0,
    CPU_1,
    NEXT_TERM,
    filled,
    hashes,
    joined,
    lost,
    make_state,
    release,
    reserve,
    sent,
)

PAGE_SIZE = 4
WORKERS = st.sampled_from([CPU_0, CPU_1])
REQUESTS = st.integers(1, 5).map(RequestId)
CONTENTS = st.sampled_from([(), ("a",), ("a", "b"), ("a", "b", "c"), ("a", "c"), ("d", "b")])


@dataclass
class Stay:
    """A request that lives somewhere, as the router could draw it up."""

    pages: list[PageId]
    hashes: tuple[bytes, ...]
    num_found: int


@dataclass
class Pool:
    """A worker's pool as the router could draw it up from the answers that it got."""

    epoch: int
    num_pages: int
    is_open: bool = True
    stays: dict[RequestId, Stay] = field(default_factory=dict)
    sealed: dict[bytes, PageId] = field(default_factory=dict)
    """Pages that a hash may be found in: what was evicted since is noticed when they are granted."""

    def held(self) -> set[PageId]:
        return {page for stay in self.stays.values() for page in stay.pages}

    def written(self) -> set[PageId]:
        """Pages that are held and not sealed."""
        return self.held() - set(self.sealed.values())

    @property
    def num_available(self) -> int:
        return self.num_pages - len(self.held())


class KvManagerMachine(RuleBasedStateMachine):
    """Drives a KV manager beside a model that knows pools only from messages."""

    def __init__(self) -> None:
        super().__init__()
        self.next_number = 1
        self.next_epoch = 1
        self.pools: dict[WorkerId, Pool] = {}
        self.largest_tokens = 0
        self.said: list[ReservePages | ReleasePages] = []
        self.answers: dict[int, Message] = {}

    @initialize()
    def begin(self) -> None:
        self.state = make_state()
        self.join(CPU_0, 8)
        self.join(CPU_1, 5)

    # What the router may say

    @rule(worker_id=WORKERS, num_pages=st.integers(1, 9))
    def join(self, worker_id: WorkerId, num_pages: int) -> None:
        epoch, self.next_epoch = self.next_epoch, self.next_epoch + 1
        self.state.handle(joined(worker_id, epoch, num_pages, PAGE_SIZE), 0.0)
        self.pools[worker_id] = Pool(epoch, num_pages)
        self.largest_tokens = max(self.largest_tokens, num_pages * PAGE_SIZE)

    @rule(worker_id=WORKERS)
    def join_twice(self, worker_id: WorkerId) -> None:
        if pool := self.pools.get(worker_id):
            self.state.handle(joined(worker_id, pool.epoch, pool.num_pages, PAGE_SIZE), 0.0)

    @rule(worker_id=WORKERS, late=st.booleans())
    def lose(self, worker_id: WorkerId, late: bool) -> None:
        if pool := self.pools.get(worker_id):
            self.state.handle(lost(worker_id, pool.epoch - late), 0.0)
            if not late:
                del self.pools[worker_id]

    @rule(worker_id=WORKERS)
    def leave(self, worker_id: WorkerId) -> None:
        if pool := self.pools.get(worker_id):
            self.state.handle(WorkerLeaving(worker_id=worker_id, epoch=Epoch(pool.epoch)), 0.0)
            pool.is_open = False

    @rule(request_id=REQUESTS, num_tokens=st.integers(1, 24), more=st.integers(0, 20), of=CONTENTS)
    def move_in(
        self, request_id: RequestId, num_tokens: int, more: int, of: tuple[str, ...]
    ) -> None:
        self.forget(request_id)
        page_hashes = hashes(*of[: (num_tokens - 1) // PAGE_SIZE])
        command = reserve(
            self.number(),
            request_id,
            num_tokens,
            num_tokens + more // 2,
            max_tokens=num_tokens + more,
            moves_in=True,
            page_hashes=page_hashes,
        )
        match self.say(command):
            case PagesReserved() as grant:
                self.take_move(command, grant)
            case PrefixAwaited() as awaited:
                self.take_awaited(command, awaited)
            case refusal:
                assert isinstance(refusal, ReserveRefused)
                assert not refusal.victims
                too_large = command.max_tokens > self.largest_tokens
                assert refusal.fits_never == (bool(self.pools) and too_large)
                available = [pool.num_available for pool in self.pools.values()]
                assert refusal.available == max(available, default=0)

    @rule(request_id=REQUESTS, num_tokens=st.integers(1, 24))
    def grow(self, request_id: RequestId, num_tokens: int) -> None:
        pool = self.home(request_id)
        if pool is None:
            return
        command = reserve(self.number(), request_id, num_tokens)
        answer = self.say(command)
        table = pool.stays[request_id].pages
        needed = max(0, -(-num_tokens // PAGE_SIZE) - len(table))
        if isinstance(answer, PagesReserved):
            assert pool is self.pools[answer.worker_id], "a request has moved"
            self.take_new(pool, answer.new_pages)
            table.extend(answer.new_pages)
            assert len(answer.new_pages) == needed
        else:
            assert isinstance(answer, ReserveRefused)
            self.take_refusal(pool, request_id, answer, needed)

    @rule(request_id=REQUESTS, num_pages=st.integers(1, 4))
    def fill(self, request_id: RequestId, num_pages: int) -> None:
        pool = self.home(request_id)
        if pool is None:
            return
        stay = pool.stays[request_id]
        told = stay.hashes[:num_pages]
        page_hashes = b"".join(told[stay.num_found :])
        self.state.handle(filled(self.number(), request_id, stay.num_found, page_hashes), 0.0)
        for page, page_hash in zip(stay.pages, told, strict=False):
            if page not in pool.sealed.values():
                pool.sealed.setdefault(page_hash, page)

    @rule(request_id=REQUESTS)
    def release(self, request_id: RequestId) -> None:
        command = release(self.number(), request_id)

        assert self.say(command) == PagesReleased(number=command.number, request_id=request_id)

        self.forget(request_id)

    @precondition(lambda self: self.said)
    @rule(choice=st.data())
    def repeat(self, choice: st.DataObject) -> None:
        command = choice.draw(st.sampled_from(self.said))
        newest = max(c.number for c in self.said if c.request_id == command.request_id)

        answers = sent(self.state.handle(command, 0.0))

        expected = [self.answers[command.number]] if command.number == newest else []
        assert answers == expected

    @rule()
    def raise_term(self) -> None:
        self.state.handle(NEXT_TERM, 0.0)
        kept = dict(self.pools)
        self.pools.clear()
        self.largest_tokens = 0
        self.said.clear()
        for worker_id, pool in kept.items():
            self.state.handle(joined(worker_id, pool.epoch, pool.num_pages, PAGE_SIZE), 0.0)
            self.pools[worker_id] = Pool(pool.epoch, pool.num_pages, sealed=pool.sealed)
            self.largest_tokens = max(self.largest_tokens, pool.num_pages * PAGE_SIZE)

    @invariant()
    def every_page_is_accounted_for(self) -> None:
        self.state.check()
        counted, *_ = sent(self.state.handle(RouterHeartbeat(oldest_live=0), 0.0))  # type: ignore[arg-type]
        for count in counted.pools:  # type: ignore[attr-defined]
            pool = self.pools[count.worker_id]
            assert count.free + count.held + count.shared + count.cached == pool.num_pages
            assert count.held + count.shared == len(pool.held())

    # What the answers must be

    def number(self) -> int:
        number, self.next_number = self.next_number, self.next_number + 1
        return number

    def say(self, command: ReservePages | ReleasePages) -> Message:
        [answer] = sent(self.state.handle(command, 0.0))
        self.said.append(command)
        self.answers[command.number] = answer
        return answer

    def home(self, request_id: RequestId) -> Pool | None:
        return next((pool for pool in self.pools.values() if request_id in pool.stays), None)

    def forget(self, request_id: RequestId) -> None:
        for pool in self.pools.values():
            pool.stays.pop(request_id, None)

    def take_move(self, command: ReservePages, grant: PagesReserved) -> None:
        pool = self.pools[grant.worker_id]
        assert pool.is_open
        assert grant.epoch == pool.epoch
        assert command.max_tokens <= pool.num_pages * PAGE_SIZE
        contents = split_hashes(command.page_hashes)
        found, new = grant.new_pages[: grant.num_found], grant.new_pages[grant.num_found :]
        assert found == tuple(pool.sealed[each] for each in contents[: grant.num_found])
        self.take_new(pool, new)
        assert len(grant.new_pages) == max(len(found), -(-command.num_tokens // PAGE_SIZE))
        pool.stays[command.request_id] = Stay(list(grant.new_pages), contents, len(found))

    def take_new(self, pool: Pool, pages: tuple[PageId, ...]) -> None:
        """Pages to be written: nobody else may hold them, and what was in them is gone."""
        assert pool.held().isdisjoint(pages), "a page is held twice"
        assert len(set(pages)) == len(pages)
        assert set(pages) <= set(range(pool.num_pages))
        pool.sealed = {each: page for each, page in pool.sealed.items() if page not in pages}

    def take_awaited(self, command: ReservePages, awaited: PrefixAwaited) -> None:
        pool = self.home(awaited.leader)
        assert pool is not None, "the leader lives nowhere"
        common = split_hashes(command.page_hashes)[: awaited.num_pages]
        assert awaited.num_pages == len(common)
        assert common[-1] not in pool.sealed
        assert common[-1] in pool.stays[awaited.leader].hashes

    def take_refusal(
        self, pool: Pool, request_id: RequestId, refusal: ReserveRefused, needed: int
    ) -> None:
        assert (refusal.needed, refusal.available) == (needed, pool.num_available)
        assert needed > pool.num_available
        assert not refusal.fits_never
        assert all(victim > request_id for victim in refusal.victims)
        if refusal.victims:
            left = {
                page
                for holder, stay in pool.stays.items()
                if holder not in refusal.victims
                for page in stay.pages
            }
            assert pool.num_pages - len(left) >= needed, "the victims are not enough"


KvManagerMachine.TestCase.settings = settings(
    max_examples=60, stateful_step_count=50, deadline=None, derandomize=True
)
TestKvManager = pytest.mark.slow(KvManagerMachine.TestCase)
