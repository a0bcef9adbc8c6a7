"""Faults that a test writes down beforehand, and what must hold whatever they are."""

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial

from common.ids import WorkerId
from common.messages import Message
from services.admin.inline import InlineCluster
from services.admin.inline_bus import MESSAGE_S
from services.router.jobs import LineOutcome, ParsedLine
from services.router.state import RouterState
from tests.support.checkpoints import VOCAB_SIZE, cached_checkpoint
from tests.support.inline import lines_for, make_cluster, tokens

EVERY = 0
"""In the place of a message's number: all of its kind, but those with a number of their own."""

NUM_STEPS = 10
PROMPT_SIZES = (3, 20, 40, 70, 9, 33)
KV_MEMORY = 160 << 10
"""Bytes of a page pool: two or three of the lines."""

AFTERMATH_S = 15.0
"""Longer than anything is late: whatever is still under way may not end a line again."""

Action = Callable[[InlineCluster], Sequence[float]]
"""Does something to the cluster, and says when the message at hand arrives."""


def arrives(*delays_s: float) -> Action:
    """Let as many copies of the message arrive, each after its time."""
    return lambda cluster: delays_s


def dies(*worker_ids: WorkerId, back_after_s: float | None = 0.0) -> Action:
    """Let workers die while the message is under way, and start again a little later or never."""

    def act(cluster: InlineCluster) -> Sequence[float]:
        for worker_id in worker_ids:
            cluster.kill(worker_id)
            if back_after_s is not None:
                back_s = cluster.bus.clock.now() + back_after_s
                cluster.bus.clock.call_at(back_s, partial(cluster.launch, worker_id))
        return (MESSAGE_S,)

    return act


class Script:
    """The fate of every message: that of the n-th of a kind is written down, the others arrive.

    At each message, all invariants of all states are asserted.
    """

    def __init__(
        self, cluster: InlineCluster, actions: Mapping[tuple[type[Message], int], Action]
    ) -> None:
        self._cluster = cluster
        self._actions = actions
        self.left = {moment for moment in actions if moment[1] != EVERY}
        self._counts: Counter[type[Message]] = Counter()

    def __call__(self, sender: WorkerId, receiver: WorkerId, message: Message) -> Sequence[float]:
        kind = type(message)
        self._counts[kind] += 1
        moment = (kind, self._counts[kind])
        self.left.discard(moment)
        check(self._cluster)
        action = self._actions.get(moment) or self._actions.get((kind, EVERY))
        return action(self._cluster) if action else (MESSAGE_S,)


def some_lines() -> list[ParsedLine]:
    """Greedy lines with prompts below and above a microbatch's rows."""
    draw = random.Random(2)
    prompts = [[draw.randrange(3, VOCAB_SIZE) for _ in range(size)] for size in PROMPT_SIZES]
    return lines_for(prompts, NUM_STEPS)


def make() -> InlineCluster:
    """A cluster where lines must wait for each other's pages, several microbatches in flight."""
    return make_cluster(
        cached_checkpoint("llama31")[0],
        shape=(2, 2),
        in_flight=3,
        max_num_batched_tokens=32,
        kv_memory=KV_MEMORY,
    )


@cache
def quiet_tokens() -> list[tuple[int, ...]]:
    """What the lines say when nothing happens."""
    return tokens(make().generate(some_lines()))


def play(actions: Mapping[tuple[type[Message], int], Action]) -> list[LineOutcome]:
    """Run the lines in a cluster where all of this happens."""
    cluster = make()
    script = cluster.bus.fate = Script(cluster, actions)
    outcomes = cluster.generate(some_lines())
    end_s = cluster.bus.clock.now() + AFTERMATH_S
    while cluster.bus.clock.now() < end_s:
        cluster.bus.clock.step()
    assert not script.left, "the script was not played to its end"
    return outcomes


def check(cluster: InlineCluster) -> None:
    """Assert whatever must hold between two messages."""
    for state in cluster.states():
        if isinstance(state, RouterState):
            check_router(state)
        elif hasattr(state, "check"):
            state.check()


def check_router(state: RouterState) -> None:
    """Assert that requests and pages are in one place each, and the limits are kept."""
    flights = state.scheduler.flights.live.values()
    assert len(flights) <= state.scheduler.throttle.in_flight
    travelling = [request.request_id for flight in flights for request in flight.requests]
    assert len(travelling) == len(set(travelling)), "a request is in two microbatches"
    held = [
        (request.home, page)
        for request in state.scheduler.requests.all()
        for page in request.pages.tolist()
    ]
    assert len(held) == len(set(held)), "a page is held by two requests"
