"""The router's state: members, requests, flights and reservations behind one dispatcher."""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import Any

from common.ids import Epoch, MicrobatchId, Term, WorkerId, first_microbatch_id
from common.messages import (
    DrainWanted,
    Heartbeat,
    Hop,
    PagesReleased,
    PagesReserved,
    PoolsCounted,
    PrefixAwaited,
    Register,
    Registered,
    RegisterRefused,
    ReserveRefused,
    RouterHeartbeat,
    SampledTokens,
    SpeedsMeasured,
    StepFailed,
    TablesWanted,
    WorkerJoined,
    WorkerLost,
    WorkerReady,
    WorkerSpeed,
)
from common.messages.base import Message
from common.policy.patience import hang_s
from common.runtime.effects import LinkLost, Note, Send, SetTimer, Stop, StopRequested, TimerFired
from services.router.blames import Link
from services.router.drains import Drains, DrainWorker, leaving_word
from services.router.effects import Effects
from services.router.flights import Flights
from services.router.lines import JobCancelled, LinesReady
from services.router.membership import ClusterShape, Members, Worker
from services.router.requests import Requests
from services.router.scheduler import Scheduler
from services.router.text.stop_strings import Decode
from services.router.throttle import Rules

_SILENT = "it was silent"
_LINK_BROKE = "its link broke"
_BLAMED = "two microbatches in a row were lost on the way to it"
_HUNG = "its engine has stood still for too long"
_PERHAPS_ALIVE = (_SILENT, _LINK_BROKE, _BLAMED)

RouterEvent = (
    Message | LinkLost | TimerFired | StopRequested | LinesReady | JobCancelled | DrainWorker
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """The settings about liveness."""

    heartbeat_s: float = 1.0
    """Between two heartbeats, of the router and of every worker."""
    lease_s: float = 3.0
    """A worker silent for longer counts as lost."""
    kv_patience_s: float = 2.0
    """An unanswered word to the KV manager is repeated after so long."""
    stop_timeout_s: float = 10.0
    """When the router is to stop, what is in flight may take so long to come home."""


class RouterState:
    """Decides everything that the router does."""

    def __init__(
        self,
        shape: ClusterShape,
        term: Term,
        rules: Rules,
        times: Times,
        decoder: Callable[[bool], Decode],
    ) -> None:
        self.times = times
        self._term = term
        self.members = Members(shape)
        self.scheduler = Scheduler(
            members=self.members,
            rules=rules,
            requests=Requests(decoder),
            flights=Flights(first_microbatch_id(term)),
        )
        self.drains = Drains(self.scheduler)
        self._was_ready = False
        self._next_beat_s = 0.0
        self._handlers: dict[type, Callable[[Any, float], Effects]] = {
            Register: self._register,
            WorkerReady: self._ready,
            Heartbeat: self._heartbeat,
            WorkerLost: self._left,
            LinkLost: self._link_lost,
            DrainWorker: self.drains.begin,
            DrainWanted: self.drains.wanted,
            PagesReserved: self.scheduler.tenancy.reserved,
            PrefixAwaited: self.scheduler.tenancy.awaited,
            ReserveRefused: self.scheduler.reserve_refused,
            PagesReleased: self.scheduler.tenancy.released,
            PoolsCounted: self._counted,
            TablesWanted: self._tables_wanted,
            SampledTokens: self.scheduler.sampled,
            StepFailed: self._step_failed,
            LinesReady: self.scheduler.lines_ready,
            JobCancelled: self.scheduler.job_cancelled,
            TimerFired: self._timer,
            StopRequested: self._stop_requested,
        }

    def start(self, now: float) -> Effects:
        """Begin to watch leases and to send heartbeats."""
        return [self._set_beat(now)]

    def handle(self, event: RouterEvent, now: float) -> Effects:
        """Take a message or an event; whatever can start because of it is started."""
        handler = self._handlers.get(type(event))
        if handler is None:
            return [
                Note("message not for the router", {"message": type(event).__name__}, "warning")
            ]
        effects = [*handler(event, now), *self.scheduler.pump(now), *self._note_readiness()]
        return [*effects, *self.drains.settle(), *self._stop_when_home()]

    # The end of an orderly life: nothing new, and what is in flight comes home

    def _stop_requested(self, _: StopRequested, now: float) -> Effects:
        self.scheduler.closed = True
        return [SetTimer("stop", now + self.times.stop_timeout_s)]

    def _stop_when_home(self) -> Effects:
        if self.scheduler.closed and not self.scheduler.flights.live:
            return self._stop()
        return []

    def _stop(self) -> Effects:
        return [*self.scheduler.checkpoint(), Stop("asked to stop")]

    def _note_readiness(self) -> Effects:
        missing = self.members.missing()
        if (not missing) == self._was_ready:
            return []
        self._was_ready = not missing
        if missing:
            return [Note("cluster waits", {"missing": missing}, "warning")]
        self.members.formed = True
        return [Note("cluster is ready", {"workers": len(self.members.workers)})]

    # Membership

    def _register(self, message: Register, now: float) -> Effects:
        hop = Hop(worker_id=message.worker_id, endpoint=message.endpoint, epoch=message.epoch)
        if (hop.worker_id, hop.epoch) in self.members.given_up:
            return [Send(hop, WorkerLost(worker_id=hop.worker_id, epoch=hop.epoch))]
        reason = self._later_term(message) or self.members.refusal(message)
        if reason is not None:
            note = Note("worker refused", {"worker_id": hop.worker_id, "reason": reason}, "warning")
            return [Send(hop, RegisterRefused(reason=reason)), note]
        known = self.members.current(message.worker_id, message.epoch)
        effects: Effects = []
        if known is None:
            earlier = self.members.workers.get(message.worker_id)
            if earlier is not None:
                effects += self._lose(earlier, "it started again", now)
            known = self.members.admit(message, now)
            fields = {"worker_id": hop.worker_id, "role": message.role, "endpoint": hop.endpoint}
            effects.append(Note("worker registered", fields))
        return [*effects, Send(hop, self._registered(known))]

    def _later_term(self, message: Register) -> str | None:
        """Say what is wrong if a worker has heard of a term that is still to come here."""
        if message.term <= self._term:
            return None
        return (
            f"{message.worker_id} was in term {message.term}, this router is in term {self._term}: "
            "its job store was lost or is another; started again, the worker may join"
        )

    def _registered(self, worker: Worker) -> Registered:
        holds_pages = worker.role == "attention_worker"
        return Registered(
            layers=worker.layers,
            attention=self.members.shape.attention if holds_pages else None,
            heartbeat_s=self.times.heartbeat_s,
        )

    def _ready(self, message: WorkerReady, now: float) -> Effects:
        worker = self.members.make_ready(message)
        if worker is None:
            return []
        note = Note("worker is ready", {"worker_id": message.worker_id, "pages": message.num_pages})
        manager = self.members.kv_manager()
        if manager is None:
            return [note]
        if worker.role == "attention_worker":
            self.scheduler.tenancy.pools_changed()
            return [note, Send(manager, self._joined(worker))]
        if worker.role == "kv_manager":
            return [note, *self._announce_pools(), *self.scheduler.tenancy.manager_ready(now)]
        return [note]

    def _tables_wanted(self, message: TablesWanted, now: float) -> Effects:
        """Tell a KV manager that knows of nobody who holds what; it is not asked for pages before."""
        manager = self.members.current(message.worker_id, message.epoch)
        if manager is None or manager.role != "kv_manager" or manager.ready:
            return []
        pools = self.members.pools()
        told = [
            *map(self._joined, pools),
            *(leaving_word(each) for each in pools if each.leaving),
            *self.scheduler.tables(),
        ]
        return [Send(manager.hop, each) for each in told]

    def _announce_pools(self) -> Effects:
        manager = self.members.kv_manager()
        workers = self.members.ready_workers("attention_worker")
        return [Send(manager, self._joined(worker)) for worker in workers] if manager else []

    def _announce_speeds(self) -> Effects:
        manager = self.members.kv_manager()
        speeds = tuple(
            WorkerSpeed(
                worker_id=worker.hop.worker_id,
                epoch=worker.hop.epoch,
                tokens_per_s=worker.tokens_per_s,
            )
            for worker in self.members.ready_workers("attention_worker")
            if worker.tokens_per_s > 0
        )
        return [Send(manager, SpeedsMeasured(speeds=speeds))] if manager and speeds else []

    def _joined(self, worker: Worker) -> WorkerJoined:
        return WorkerJoined(
            worker_id=worker.hop.worker_id,
            epoch=worker.hop.epoch,
            num_pages=worker.num_pages,
            page_size=self.members.shape.attention.page_size,
        )

    def _heartbeat(self, message: Heartbeat, now: float) -> Effects:
        self.members.hear(message, now)
        return []

    def _counted(self, message: PoolsCounted, now: float) -> Effects:
        for count in message.pools:
            if (worker := self.members.current(count.worker_id, count.epoch)) is not None:
                worker.pool = count
        return []

    def _left(self, message: WorkerLost, now: float) -> Effects:
        worker = self.members.current(message.worker_id, message.epoch)
        return self._lose(worker, "it left", now) if worker is not None else []

    def _link_lost(self, event: LinkLost, now: float) -> Effects:
        worker = self.members.at(event.endpoint, event.epoch)
        return self._lose(worker, _LINK_BROKE, now) if worker is not None else []

    def _lose(self, worker: Worker, reason: str, now: float) -> Effects:
        hop = worker.hop
        self.members.remove(worker)
        effects: Effects = [
            Note("worker lost", {"worker_id": hop.worker_id, "reason": reason}, "warning")
        ]
        # If it lives after all it learns that its life here is over, and starts another.
        if reason in _PERHAPS_ALIVE:
            effects.append(Send(hop, WorkerLost(worker_id=hop.worker_id, epoch=hop.epoch)))
        if reason == _HUNG:  # whatever it is registered as next, its engine would hang on
            self.members.sent_away[hop.worker_id, hop.epoch] = reason
            effects.append(Send(hop, RegisterRefused(reason=reason)))
        if worker.role == "kv_manager":
            self.scheduler.tenancy.manager_lost()
            return effects
        manager = self.members.kv_manager()
        if worker.role == "attention_worker" and manager is not None:
            effects.append(Send(manager, WorkerLost(worker_id=hop.worker_id, epoch=hop.epoch)))
        spare = self.members.reassign()
        if spare is not None:
            effects.append(Send(spare.hop, self._registered(spare)))
        return [*effects, *self.scheduler.worker_lost(hop, now)]

    # Steps and time

    def _step_failed(self, message: StepFailed, now: float) -> Effects:
        reason = f"{message.worker_id}: {message.reason}"
        live = message.microbatch_id in self.scheduler.flights.live
        effects = self.scheduler.microbatch_failed(message.microbatch_id, reason, now)
        links = [(message.worker_id, message.blames)] if live and message.blames else []
        return [*effects, *self._blame(links, now)]

    def _took_too_long(self, microbatch_id: MicrobatchId, now: float) -> Effects:
        flight = self.scheduler.flights.live.get(microbatch_id)
        if flight is None:
            return []
        effects = self.scheduler.microbatch_failed(microbatch_id, "it took too long", now)
        return [*effects, *self._blame(self.members.suspects(flight.route), now)]

    def _blame(self, links: list[Link], now: float) -> Effects:
        workers = self.members.blame(links)
        return [effect for worker in workers for effect in self._lose(worker, _BLAMED, now)]

    def _timer(self, event: TimerFired, now: float) -> Effects:
        match event.key:
            case "heartbeat":
                return self._beat(now)
            case "lease" if (
                now <= self._next_beat_s
            ):  # else the heartbeat judges, which is late too
                return [*self._lose_the_silent(now), *self._watch_leases()]
            case "stop":
                return self._stop()
            case ("drain", str() as worker_id, int() as epoch):
                worker = self.members.current(WorkerId(worker_id), Epoch(epoch))
                return self.drains.expire(worker, now) if worker is not None else []
            case ("deadline", int() as microbatch_id):
                return self._took_too_long(MicrobatchId(microbatch_id), now)
            case _:
                return []

    def _beat(self, now: float) -> Effects:
        # Whoever stood still itself has not read what the others said meanwhile.
        if now - self._next_beat_s > self.times.heartbeat_s:
            self.members.hear_all(now)
        effects: Effects = [self._set_beat(now), *self._lose_the_silent(now), *self._watch_leases()]
        for worker in self.members.hung(now, hang_s(self.scheduler.flights.passes)):
            effects += self._lose(worker, _HUNG, now)
        message = RouterHeartbeat(oldest_live=self.scheduler.flights.oldest_live)
        effects += [Send(worker.hop, message) for worker in self.members.workers.values()]
        # Said again in case it was lost; what the manager has heard changes nothing.
        effects += [*self._announce_pools(), *self._announce_speeds(), *self.drains.repeat()]
        return [*effects, *self.scheduler.tenancy.repeat(now, self.times.kv_patience_s)]

    def _lose_the_silent(self, now: float) -> Effects:
        silent = self.members.lapsed(now, self.times.lease_s)
        return [effect for worker in silent for effect in self._lose(worker, _SILENT, now)]

    def _watch_leases(self) -> Effects:
        """Look again when the first lease ends, if that is before the next heartbeat."""
        heard_s = min((each.last_heard_s for each in self.members.workers.values()), default=inf)
        ends_s = heard_s + self.times.lease_s
        return [SetTimer("lease", ends_s)] if ends_s < self._next_beat_s else []

    def _set_beat(self, now: float) -> SetTimer:
        self._next_beat_s = now + self.times.heartbeat_s
        return SetTimer("heartbeat", self._next_beat_s)
