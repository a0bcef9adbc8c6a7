"""Faults that a test writes down beforehand, and what must hold whatever they are."""

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Any, NamedTuple

from common.ids import Epoch, Term, WorkerId
from common.messages import Message
from common.runtime.effects import StopRequested
from common.wire.codec import Header, encode
from services.admin.inline import InlineCluster
from services.admin.inline_bus import MESSAGE_S
from services.router.lines import LineOutcome, ParsedLine
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


class Letter(NamedTuple):
    """A message, and who says it to whom."""

    sender: WorkerId
    receiver: WorkerId
    message: Message


Action = Callable[[InlineCluster, Letter], Sequence[float]]
"""Does something to the cluster, and says when the message at hand arrives."""

Moment = tuple[type[Message], int]
"""The n-th message of a kind, from 1."""


def arrives(*delays_s: float) -> Action:
    """Let as many copies of the message arrive, each after its time."""
    return lambda cluster, letter: delays_s


def dies(*worker_ids: WorkerId, back_after_s: float | None = 0.0) -> Action:
    """Let processes die while the message is under way, and start again a little later or never."""

    def act(cluster: InlineCluster, letter: Letter) -> Sequence[float]:
        for worker_id in worker_ids:
            cluster.kill(worker_id)
            if back_after_s is not None:
                _later(cluster, back_after_s, partial(cluster.launch, worker_id))
        return (MESSAGE_S,)

    return act


def stands_still(worker_id: WorkerId, for_s: float) -> Action:
    """Stop a process for a while, as SIGSTOP and SIGCONT do."""

    def act(cluster: InlineCluster, letter: Letter) -> Sequence[float]:
        process = cluster.process(worker_id)
        process.freeze()
        _later(cluster, for_s, process.thaw)
        return (MESSAGE_S,)

    return act


def hangs(worker_id: WorkerId) -> Action:
    """Let a process's engine end nothing any more; its loop goes on."""

    def act(cluster: InlineCluster, letter: Letter) -> Sequence[float]:
        cluster.process(worker_id).engine_hangs = True
        return (MESSAGE_S,)

    return act


def is_stopped(worker_id: WorkerId, back_after_s: float = 1.0) -> Action:
    """Ask a process to end in an orderly way, as SIGTERM does; another takes its place."""

    def act(cluster: InlineCluster, letter: Letter) -> Sequence[float]:
        _later(cluster, 0.0, partial(cluster.process(worker_id).tell, StopRequested()))
        _later(cluster, back_after_s, partial(cluster.launch, worker_id))
        return (MESSAGE_S,)

    return act


def is_told(event: Any) -> Action:
    """Tell the router something, as its HTTP API does."""

    def act(cluster: InlineCluster, letter: Letter) -> Sequence[float]:
        _later(cluster, 0.0, partial(cluster.tell, event))
        return (MESSAGE_S,)

    return act


def comes_from_the_past(*, terms: int = 0, epochs: int = 0) -> Action:
    """Let the message arrive, and once more as one of an earlier term, or for another life."""

    def act(cluster: InlineCluster, letter: Letter) -> Sequence[float]:
        hop = cluster.hops[letter.receiver]
        header = Header(
            term=Term(cluster.term - terms),
            sender=letter.sender,
            sender_epoch=cluster.hops[letter.sender].epoch,
            receiver_epoch=Epoch(hop.epoch + epochs),
        )
        frames = [memoryview(bytearray(frame)) for frame in encode(letter.message, header)]

        def arrive() -> None:
            if (inbox := cluster.bus.inboxes.get(hop.endpoint)) is not None:
                inbox(frames)

        _later(cluster, MESSAGE_S, arrive)
        return (MESSAGE_S,)

    return act


def _later(cluster: InlineCluster, seconds: float, act: Callable[[], None]) -> None:
    cluster.bus.clock.call_at(cluster.bus.clock.now() + seconds, act)


class Script:
    """The fate of every message: that of the n-th of a kind is written down, the others arrive.

    At each message, all invariants of all states are asserted.
    """

    def __init__(self, cluster: InlineCluster, actions: Mapping[Moment, Action]) -> None:
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
        letter = Letter(sender, receiver, message)
        return action(self._cluster, letter) if action else (MESSAGE_S,)


def some_lines() -> list[ParsedLine]:
    """Greedy lines with prompts below and above a microbatch's rows; two begin with the same pages."""
    draw = random.Random(2)
    prompts = [[draw.randrange(3, VOCAB_SIZE) for _ in range(size)] for size in PROMPT_SIZES]
    prompts.append([*prompts[3][:64], 5, 6])
    return lines_for(prompts, NUM_STEPS)


def make(**changes: Any) -> InlineCluster:
    """A cluster where lines must wait for each other's pages, several microbatches in flight."""
    settings: dict[str, Any] = {
        "shape": (2, 2),
        "in_flight": 3,
        "max_num_batched_tokens": 32,
        "checkpoint_tokens": 3,
        "kv_memory": KV_MEMORY,
    }
    return make_cluster(cached_checkpoint("llama31")[0], **{**settings, **changes})


@cache
def quiet_tokens(**changes: Any) -> list[tuple[int, ...]]:
    """What the lines say when nothing happens."""
    return tokens(make(**changes).generate(some_lines()))


def play(actions: Mapping[Moment, Action], **changes: Any) -> list[LineOutcome]:
    """Run the lines in a cluster where all of this happens."""
    cluster = make(**changes)
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
        for page in request.pages[request.num_sealed :].tolist()
    ]
    assert len(held) == len(set(held)), "a page that is written is held by two requests"
