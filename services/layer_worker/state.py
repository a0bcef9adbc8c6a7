"""Decides what a layer worker does next: which microbatch computes, and who gets what came out."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from common.errors import GlinthawkError
from common.ids import MicrobatchId, WorkerId
from common.messages import (
    AttentionResult,
    ForwardMicrobatch,
    HiddenStates,
    Hop,
    LayerRole,
    Register,
    Registered,
    RouterHeartbeat,
    StepFailed,
    Written,
)
from common.policy.ordering import Order, ReadyQueue, deepest_first
from common.runtime.counters import Measured
from common.runtime.effects import Effect, LinkLost, Note, Run, Send, Stop, TermRaised, WorkFailed
from common.runtime.loop import EXIT_BUG, EXIT_ERROR
from common.runtime.member import Member, Patience
from services.layer_worker.visit import Visit
from services.layer_worker.work import (
    LayerBegun,
    LoadRange,
    RangeEnded,
    RangeLoaded,
    TokensChosen,
)

_Arrival = ForwardMicrobatch | HiddenStates
_Progress = LayerBegun | RangeEnded | TokensChosen


class LayerWorkerState:
    """The visits of the microbatches that are here, and one engine that serves the deepest first.

    The engine has no more work than keeps it busy, so that the order can change until the last
    moment. As many visits are here as the router lets in.
    """

    def __init__(
        self,
        register: Register,
        router: Hop,
        patience: Patience,
        measured: Callable[[], Measured],
        order: Order = deepest_first,
        *,
        max_computing: int = 1,
    ) -> None:
        """Make a worker that is no member yet and has loaded nothing.

        Args:
            register: What it says about itself.
            router: Its epoch is 0.
            patience: How long to wait for the router.
            measured: Gives what heartbeats tell, except what only this state knows.
            order: In which ready visits are served.
            max_computing: Pieces of work that the engine may have at once.
        """
        self._worker_id = register.worker_id
        self._router = router
        self._member = Member(register, router, patience, lambda: self._tell(measured()))
        self._visits: dict[MicrobatchId, Visit] = {}
        self._ready: ReadyQueue[Visit] = ReadyQueue(order)
        self._max_computing = max_computing
        self._loading: LoadRange | None = None
        self._computing: set[MicrobatchId] = set()
        """What the engine has, whether it is still wanted or not."""
        self._role: LayerRole | None = None
        """What the router wants it to be."""
        self._loaded: LayerRole | None = None
        """What the engine has the weights of."""
        self._oldest_live = MicrobatchId(0)

    def start(self, now: float) -> list[Effect]:
        """Knock at the router's door."""
        return self._member.start(now)

    @property
    def is_ready(self) -> bool:
        """Whether the router may give it work."""
        return self._member.is_ready

    def handle(self, event: Any, now: float) -> list[Effect]:
        """Take a message, a result of the engine or an event; give what is to be done."""
        effects = self._decide(event, now)
        return [*effects, *self._occupy(now), *self._member.settle(idle=not self._visits)]

    @property
    def num_visits(self) -> int:
        """Microbatches that are here."""
        return len(self._visits)

    @property
    def num_ready(self) -> int:
        """Those of them that wait for the engine."""
        return len(self._ready)

    def check(self) -> None:
        """Assert that each visit is in exactly one place."""
        assert len(self._computing) <= self._max_computing
        assert not (self._loading and self._computing)
        out = {visit.microbatch_id for visit in self._visits.values() if visit.is_out}
        ready = set(self._ready.microbatches())
        assert len(ready) == len(self._ready)
        assert not ready & out
        assert not self._computing & (ready | out)
        assert self._visits.keys() <= ready | out | self._computing
        assert ready <= self._visits.keys()
        assert all(microbatch_id >= self._oldest_live for microbatch_id in self._visits)

    def _decide(self, event: Any, now: float) -> list[Effect]:
        match event:
            case ForwardMicrobatch() | HiddenStates():
                return self._arrive(event, now)
            case AttentionResult() | Written():
                return self._take_back(event, now)
            case LayerBegun() | RangeEnded() | TokensChosen():
                self._computing.remove(event.microbatch_id)
                return self._progress(event, now)
            case RangeLoaded(role=role):
                self._loading, self._loaded = None, role
                return self._member.ready(layers=role) if role == self._role else []
            case WorkFailed():
                return self._fail_work(event)
            case _:
                return [*self._member.handle(event, now), *self._decide_for_all(event)]

    def _decide_for_all(self, event: Any) -> list[Effect]:
        """Take what concerns the worker as a whole, beyond its membership."""
        match event:
            case Registered(layers=LayerRole() as role):
                return self._become(role)
            case RouterHeartbeat(oldest_live=oldest_live):
                self._end_older(oldest_live)
            case TermRaised():
                self._drop(list(self._visits))
            case LinkLost():
                return self._lose_link(event)
        return []

    def _lose_link(self, lost: LinkLost) -> list[Effect]:
        effects: list[Effect] = []
        for visit in list(self._visits.values()):
            if (peer := visit.peer_at(lost.endpoint, lost.epoch)) is not None:
                self._drop([visit.microbatch_id])
                reason = f"the link to {peer} ({lost.endpoint}) is lost"
                effects.append(self._failed(visit.microbatch_id, reason, blames=peer))
        return effects

    def _become(self, role: LayerRole) -> list[Effect]:
        """Take on a role; what is loaded for it already stays."""
        if role != self._role:
            self._drop(list(self._visits))
        self._role = role
        # Otherwise `RangeLoaded` will say it.
        return self._member.ready(layers=role) if role == self._loaded else []

    def _arrive(self, message: _Arrival, now: float) -> list[Effect]:
        self._end_older(message.oldest_live)
        if message.microbatch_id < self._oldest_live or message.microbatch_id in self._visits:
            return [_dropped(message)]
        if misfit := self._misfit(message):
            return [self._failed(message.microbatch_id, misfit)]
        assert self._loaded
        visit = Visit.of(message, self._loaded.start, now)
        self._visits[visit.microbatch_id] = visit
        self._ready.push(visit.depth, visit)
        return []

    def _misfit(self, message: _Arrival) -> str | None:
        """Say why the role that it has cannot serve a message; None if it can."""
        role = self._role
        if role is None or role != self._loaded:
            return "its layers are not loaded yet"
        index = message.range_index if isinstance(message, HiddenStates) else 0
        num_ranges = len(message.route.layer_workers)
        begins, ends = isinstance(message, ForwardMicrobatch), index == num_ranges - 1
        if not 0 <= index < num_ranges or (begins, ends) != (role.first, role.last):
            layers = f"layers [{role.start}, {role.stop})"
            return f"{layers} do not belong at place {index} of {num_ranges} on a route"
        return None

    def _take_back(self, answer: AttentionResult | Written, now: float) -> list[Effect]:
        visit = self._visits.get(answer.microbatch_id)
        if visit is None or not visit.wants(answer):
            return [_dropped(answer)]
        if not visit.gather(answer, now):
            return []
        if visit.parting:
            return [self._leave(visit, visit.parting)]
        self._ready.push(visit.depth, visit)
        return []

    def _progress(self, event: _Progress, now: float) -> list[Effect]:
        visit = self._visits.get(event.microbatch_id)
        if visit is None:
            return []  # dropped while it was computed
        if isinstance(event, LayerBegun):
            sends = visit.scatter(event, self._oldest_live, now)
            if not visit.is_out:
                self._ready.push(visit.depth, visit)
            return [*sends]
        if isinstance(event, RangeEnded):
            visit.parting = visit.leave(event, self._oldest_live)
        else:
            visit.parting = Send(self._router, visit.go_home(event))
        return [] if visit.is_out else [self._leave(visit, visit.parting)]

    def _leave(self, visit: Visit, parting: Send) -> Send:
        del self._visits[visit.microbatch_id]
        return parting

    def _occupy(self, now: float) -> list[Effect]:
        """Give the engine what keeps it busy; weights are loaded while it has nothing else."""
        if self._role is not None and self._role != self._loaded:
            if self._loading or self._computing:
                return []
            self._loading, self._loaded = LoadRange(role=self._role), None
            return [Run(self._loading)]
        effects: list[Effect] = []
        while self._loaded and len(self._ready) and len(self._computing) < self._max_computing:
            work = self._ready.pop().take_work(self._loaded, now)
            self._computing.add(work.microbatch_id)
            effects.append(Run(work))
        return effects

    def _fail_work(self, failure: WorkFailed) -> list[Effect]:
        """Give up what the engine could not do: a microbatch, or without weights the whole life."""
        known = isinstance(failure.error, GlinthawkError)
        reason = str(failure.error) if known else repr(failure.error)
        if isinstance(failure.work, LoadRange):
            self._loading = None
            return [Stop(reason, exit_code=EXIT_ERROR if known else EXIT_BUG)]
        self._computing.remove(failure.work.microbatch_id)
        visit = self._visits.get(failure.work.microbatch_id)
        bug = [] if known else [Note("engine failed", {"exc_info": failure.error}, level="error")]
        return [*bug, *self._fail([visit] if visit else [], reason)]

    def _fail(self, visits: Iterable[Visit], reason: str) -> list[Effect]:
        microbatch_ids = [visit.microbatch_id for visit in visits]
        self._drop(microbatch_ids)
        return [self._failed(microbatch_id, reason) for microbatch_id in microbatch_ids]

    def _failed(
        self, microbatch_id: MicrobatchId, reason: str, blames: WorkerId | None = None
    ) -> Send:
        message = StepFailed(
            microbatch_id=microbatch_id, worker_id=self._worker_id, reason=reason, blames=blames
        )
        return Send(self._router, message)

    def _end_older(self, oldest_live: MicrobatchId) -> None:
        self._oldest_live = max(self._oldest_live, oldest_live)
        self._drop([each for each in self._visits if each < self._oldest_live])

    def _drop(self, microbatch_ids: Iterable[MicrobatchId]) -> None:
        for microbatch_id in microbatch_ids:
            del self._visits[microbatch_id]
        self._ready.keep(self._visits.__contains__)

    def _tell(self, measured: Measured) -> Measured:
        """Add to the figures what a heartbeat tells about the visits and the engine."""
        waiting_for = set().union(*(visit.waits_for() for visit in self._visits.values()))
        busy = bool(self._loading or self._computing)
        return replace(measured, waiting_for=tuple(sorted(waiting_for)), busy=busy)


def _dropped(message: _Arrival | AttentionResult | Written) -> Note:
    fields = {"tag": message.TAG, "microbatch_id": message.microbatch_id}
    return Note("message dropped, nobody waits for it", fields, level="debug")
