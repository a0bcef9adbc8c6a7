"""Router and KV manager, with tiny pools and any order of events: invariants 1 to 3 of the design.

Both states are the real ones. What is between them is a queue in each direction; workers compute
nothing. A naive model of the pages remembers what was written where, so that a page that is shared
can be compared with what its reader expects in it.
"""

from collections import Counter, deque
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from common.ids import WorkerId
from common.messages import ForwardMicrobatch, Message, ReservePages, StepFailed, WorkerReady
from common.messages.entries import NUM_PAGES, NUM_PROMPT, NUM_ROWS, REQUEST_ID, START
from common.runtime.effects import Send
from services.router.lines import LineFailed, LineFinished
from services.router.page_rules import PageRules
from services.router.requests import Request, Standing
from tests.support.kv import make_state
from tests.support.router import (
    PAGE_SIZE,
    RouterBench,
    homecoming,
    hop,
    line,
    link_lost,
    register,
    stop_after,
)

MAX_IN_FLIGHT = 2
PREFIXES = ((), (1, 2, 3, 4), (1, 2, 3, 4, 5, 6, 7, 8), (9, 9, 9, 9, 5, 6, 7, 8))
Cell = tuple[int, bool]
"""What was computed for a position: its token, and whether as prompt."""


class TenancyMachine(RuleBasedStateMachine):
    """Drives a router and a KV manager; delivers what they say when it likes."""

    def __init__(self) -> None:
        super().__init__()
        self.bench = RouterBench(
            in_flight=MAX_IN_FLIGHT, max_rows=16, pages=PageRules(max_requests=6, max_reserving=3)
        )
        self.router = self.bench.state
        self.manager_epoch = 0
        self.to_manager: deque[Message] = deque()
        self.to_router: deque[Message] = deque()
        self.live: list[ForwardMicrobatch] = []
        self.next_epoch = 1
        self.num_lines = 0
        self.ended: Counter[int] = Counter()
        self.content: dict[tuple[str, int, int], list[Cell | None]] = {}
        """Per page of a worker's life: what its slots hold."""

    @initialize()
    def begin(self) -> None:
        self.begin_manager()
        self.take(self.bench.join("layer-0", "layer_worker"))
        self.join_pool("attention-0", 6)
        self.join_pool("attention-1", 4)

    # What happens

    @rule(
        prefix=st.sampled_from(PREFIXES),
        tail=st.integers(1, 6),
        max_tokens=st.integers(1, 12),
        n=st.integers(1, 2),
    )
    def submit(self, prefix: tuple[int, ...], tail: int, max_tokens: int, n: int) -> None:
        prompt = (*prefix, *range(20, 20 + tail))
        stop = stop_after(max_tokens, eos_token_ids=(2,))
        self.num_lines += 1
        self.take(self.bench.submit(line(self.num_lines, prompt, stop=stop, n=n)))

    @rule()
    def deliver_to_manager(self) -> None:
        if self.to_manager:
            effects = self.manager.handle(self.to_manager.popleft(), 0.0)
            self.to_router += [each.message for each in effects if isinstance(each, Send)]

    @rule()
    def deliver_to_router(self) -> None:
        if self.to_router:
            self.take(self.bench.tell(self.to_router.popleft()))

    @rule(token=st.sampled_from([2, 7, 8]), newest=st.booleans())
    def come_home(self, token: int, newest: bool) -> None:
        if self.live:
            microbatch = self.live.pop(-newest)
            self.write(microbatch)
            self.take(self.bench.tell(homecoming(microbatch, token)))

    @rule(newest=st.booleans())
    def fail(self, newest: bool) -> None:
        if self.live:
            microbatch = self.live.pop(-newest)
            self.write(microbatch)
            failure = StepFailed(
                microbatch_id=microbatch.microbatch_id,
                worker_id=WorkerId("layer-0"),
                reason="fate",
                blames=None,
            )
            self.take(self.bench.tell(failure))

    @rule(name=st.sampled_from(["attention-0", "attention-1"]), num_pages=st.integers(2, 6))
    def restart(self, name: str, num_pages: int) -> None:
        self.join_pool(name, num_pages)

    @rule(answers_arrive=st.booleans())
    def lose_the_manager(self, answers_arrive: bool) -> None:
        self.to_manager.clear()
        if not answers_arrive:
            self.to_router.clear()
        self.take(self.bench.tell(link_lost("kv", self.manager_epoch)))
        self.begin_manager()

    # The model

    def begin_manager(self) -> None:
        self.manager_epoch += 1
        self.manager = make_state(self.manager_epoch)
        self.take(self.bench.tell(register("kv", "kv_manager", self.manager_epoch)))

    def join_pool(self, name: str, num_pages: int) -> None:
        epoch, self.next_epoch = self.next_epoch, self.next_epoch + 1
        message = register(name, "attention_worker", epoch)
        self.take(self.bench.tell(message))
        ready = WorkerReady(
            worker_id=message.worker_id, epoch=message.epoch, num_pages=num_pages, layers=None
        )
        self.take(self.bench.tell(ready))

    def take(self, effects: list[Any]) -> None:
        for effect in effects:
            if isinstance(effect, LineFinished | LineFailed):
                self.ended[effect.line.number] += 1
            elif isinstance(effect, Send) and effect.to == hop("kv", self.manager_epoch):
                self.to_manager.append(effect.message)
            elif isinstance(effect, Send) and isinstance(effect.message, ForwardMicrobatch):
                self.check_read(effect.message)
                self.live.append(effect.message)
        known = self.router.scheduler.flights.live
        self.live = [each for each in self.live if each.microbatch_id in known]

    def cells(self, microbatch: ForwardMicrobatch) -> list[tuple[str, int, list[int], Any]]:
        """(worker, epoch, page table, entry) of every entry."""
        table = microbatch.page_table.numpy().tolist()
        entries = microbatch.entries.numpy()
        found = []
        for shard in microbatch.route.shards:
            for index in range(shard.start_entry, shard.stop_entry):
                pages, table = (
                    table[: entries[index, NUM_PAGES]],
                    table[entries[index, NUM_PAGES] :],
                )
                found.append((shard.worker.worker_id, shard.worker.epoch, pages, entries[index]))
        return found

    def expected(self, request: Request, position: int) -> Cell:
        return int(request.tokens[position]), position < request.num_prompt

    def check_read(self, microbatch: ForwardMicrobatch) -> None:
        """Positions before an entry's first row must be in its pages, as it would compute them."""
        for worker, epoch, pages, entry in self.cells(microbatch):
            request = self.router.scheduler.requests.find(entry[REQUEST_ID])
            assert request is not None
            for position in range(entry[START]):
                page = self.content[worker, epoch, pages[position // PAGE_SIZE]]
                assert page[position % PAGE_SIZE] == self.expected(request, position)

    def write(self, microbatch: ForwardMicrobatch) -> None:
        tokens = iter(microbatch.token_ids.numpy().tolist())
        for worker, epoch, pages, entry in self.cells(microbatch):
            for position in range(entry[START], entry[START] + entry[NUM_ROWS]):
                key = (worker, epoch, pages[position // PAGE_SIZE])
                page = self.content.setdefault(key, [None] * PAGE_SIZE)
                page[position % PAGE_SIZE] = (next(tokens), bool(position < entry[NUM_PROMPT]))

    @invariant()
    def pages_add_up(self) -> None:
        self.manager.check()

    @invariant()
    def no_page_is_written_and_shared(self) -> None:
        """Of all live microbatches, at most one entry has a page that it writes to."""
        readers: Counter[tuple[str, int, int]] = Counter()
        written: set[tuple[str, int, int]] = set()
        for microbatch in self.live:
            for worker, epoch, pages, entry in self.cells(microbatch):
                readers.update((worker, epoch, page) for page in pages)
                written |= {(worker, epoch, page) for page in pages[entry[START] // PAGE_SIZE :]}
        assert all(readers[page] == 1 for page in written)

    @invariant()
    def few_microbatches_travel_and_no_request_twice(self) -> None:
        flights = self.router.scheduler.flights.live.values()
        riding = Counter(r.request_id for flight in flights for r in flight.requests)
        assert len(flights) <= MAX_IN_FLIGHT
        assert all(count == 1 for count in riding.values())
        in_flight = self.router.scheduler.requests.by_standing[Standing.IN_FLIGHT]
        assert set(in_flight) <= set(riding)

    def teardown(self) -> None:
        """However it went so far, without further faults every line ends, exactly once."""
        self.join_pool("attention-0", 6)  # what fitted once may wait for such a pool
        for _ in range(3000):
            if len(self.ended) == self.num_lines and not self.to_manager and not self.to_router:
                break
            self.deliver_to_manager()
            self.deliver_to_router()
            if not self.to_manager and not self.to_router:
                self.come_home(7, newest=False)
        assert self.ended == Counter(range(1, self.num_lines + 1))
        assert not any(isinstance(each, ReservePages) for each in self.to_manager)


TenancyMachine.TestCase.settings = settings(
    max_examples=60, stateful_step_count=60, deadline=None, derandomize=True
)
TestTenancy = pytest.mark.slow(TenancyMachine.TestCase)
