"""Whatever the router says, in whatever order: no page is held twice, and none is lost."""

from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from common.ids import PageId, RequestId, WorkerId
from common.messages import (
    Message,
    PagesReleased,
    PagesReserved,
    ReleasePages,
    ReservePages,
    ReserveRefused,
)
from tests.support.kv import (
    CPU_0,
    CPU_1,
    NEXT_TERM,
    joined,
    lost,
    make_state,
    release,
    reserve,
    sent,
)

PAGE_SIZE = 4
WORKERS = st.sampled_from([CPU_0, CPU_1])
REQUESTS = st.integers(1, 4).map(RequestId)


@dataclass
class Pool:
    """A worker's pool as the router could draw it up from the answers that it got."""

    epoch: int
    num_pages: int
    tables: dict[RequestId, list[PageId]] = field(default_factory=dict)

    @property
    def num_free(self) -> int:
        return self.num_pages - sum(map(len, self.tables.values()))


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

    @rule(request_id=REQUESTS, num_tokens=st.integers(1, 24), more=st.integers(0, 40))
    def reserve(self, request_id: RequestId, num_tokens: int, more: int) -> None:
        command = reserve(self.number(), request_id, num_tokens, num_tokens + more)
        answer = self.say(command)
        if isinstance(answer, PagesReserved):
            self.take_grant(command, answer)
        else:
            assert isinstance(answer, ReserveRefused)
            self.take_refusal(command, answer)

    @rule(request_id=REQUESTS)
    def release(self, request_id: RequestId) -> None:
        command = release(self.number(), request_id)

        assert self.say(command) == PagesReleased(number=command.number, request_id=request_id)

        for pool in self.pools.values():
            pool.tables.pop(request_id, None)

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
        self.pools.clear()
        self.largest_tokens = 0
        self.said.clear()

    @invariant()
    def every_page_is_accounted_for(self) -> None:
        self.state.check()

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
        return next((pool for pool in self.pools.values() if request_id in pool.tables), None)

    def take_grant(self, command: ReservePages, grant: PagesReserved) -> None:
        pool = self.pools[grant.worker_id]
        home = self.home(command.request_id)
        assert grant.epoch == pool.epoch
        assert home in (None, pool), "a request has moved"
        held = {page for table in pool.tables.values() for page in table}
        assert held.isdisjoint(grant.new_pages), "a page is held twice"
        assert set(grant.new_pages) <= set(range(pool.num_pages))
        table = pool.tables.setdefault(command.request_id, [])
        before = len(table)
        table.extend(grant.new_pages)
        assert len(table) == len(set(table)) == max(before, -(-command.num_tokens // PAGE_SIZE))

    def take_refusal(self, command: ReservePages, refusal: ReserveRefused) -> None:
        home = self.home(command.request_id)
        rooms = [home] if home else list(self.pools.values())
        held = len(home.tables[command.request_id]) if home else 0
        needed = -(-command.num_tokens // PAGE_SIZE) - held
        assert all(pool.num_free < needed for pool in rooms), "there was room"
        assert refusal.free == max((pool.num_free for pool in rooms), default=0)
        too_large = command.num_tokens > self.largest_tokens
        assert refusal.fits_never == (bool(self.pools) and too_large)
        if refusal.victims:
            assert home
            freed = sum(len(home.tables[victim]) for victim in refusal.victims)
            moves = refusal.victims == (command.request_id,)
            younger = all(victim > command.request_id for victim in refusal.victims)
            assert moves or (younger and freed + refusal.free >= needed)


KvManagerMachine.TestCase.settings = settings(
    max_examples=40, stateful_step_count=40, deadline=None, derandomize=True
)
TestKvManager = pytest.mark.slow(KvManagerMachine.TestCase)
