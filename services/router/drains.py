"""Workers that were asked to leave: they get nothing new, and go when nothing needs them any more."""

from dataclasses import dataclass, field

from common.errors import GlinthawkError
from common.ids import WorkerId
from common.messages import Drain, DrainWanted, WorkerLeaving
from common.runtime.effects import Note, Send, SetTimer
from services.router.effects import Effects
from services.router.membership import Worker
from services.router.scheduler import Scheduler

LEAVE_TIMEOUT_S = 10.0
"""For the worker itself, once nothing is on its way to it."""


class DrainRefused(GlinthawkError):
    """The cluster cannot do without this worker; nothing has changed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainWorker:
    """Operator → state: let this worker leave."""

    worker_id: WorkerId
    deadline_s: float
    """So long its requests may take to end where they are; then they are computed elsewhere."""


@dataclass(slots=True)
class Drains:
    """Sees workers off.

    A drained worker is told to go once no request lives on it and no microbatch leads through it;
    then it ends with exit code 0.
    """

    scheduler: Scheduler
    _told: dict[WorkerId, bool] = field(default_factory=dict)
    """Those who leave, and whether they have been told to go."""

    def refusal(self, worker_id: WorkerId) -> str | None:
        """Say why a worker cannot be drained; None if it can."""
        members = self.scheduler.members
        worker = members.workers.get(worker_id)
        if worker is None:
            return f"there is no worker '{worker_id}'"
        if worker.role == "kv_manager":
            return f"'{worker_id}' is the KV manager, and there is only one"
        others = [
            other
            for other in members.ready_workers(worker.role)
            if other is not worker and other.layers == worker.layers
        ]
        if not others:
            return f"'{worker_id}' is the last of its kind: start another {worker.role} first"
        return None

    def begin(self, event: DrainWorker, now: float) -> Effects:
        """Let a worker leave, if the cluster can do without it."""
        worker = self.scheduler.members.workers.get(event.worker_id)
        if worker is None or self.refusal(event.worker_id) is not None:
            return []
        return self._see_off(worker, now + event.deadline_s)

    def wanted(self, message: DrainWanted, now: float) -> Effects:
        """Let a worker leave that was asked to end: it goes in any case, so nothing is refused."""
        worker = self.scheduler.members.current(message.worker_id, message.epoch)
        return self._see_off(worker, now + message.deadline_s) if worker is not None else []

    def _see_off(self, worker: Worker, deadline_s: float) -> Effects:
        hop = worker.hop
        note = Note("worker is drained", {"worker_id": hop.worker_id})
        effects: Effects = [] if worker.leaving else [note, *self.close(worker)]
        worker.leaving = True
        self._told.setdefault(hop.worker_id, False)
        return [*effects, SetTimer(("drain", hop.worker_id, hop.epoch), deadline_s)]

    def close(self, worker: Worker) -> Effects:
        """Tell the KV manager that nobody may move to a worker any more."""
        manager = self.scheduler.members.kv_manager()
        if worker.role != "attention_worker" or manager is None:
            return []
        return [Send(manager, leaving_word(worker))]

    def expire(self, worker: Worker, now: float) -> Effects:
        """Wait no longer: what lives there is computed elsewhere."""
        return self.scheduler.tenancy.move_out(worker.hop, now)

    def settle(self) -> Effects:
        """Tell those to go whom nobody needs any more; called after every event."""
        effects: Effects = []
        for worker_id, told in list(self._told.items()):
            worker = self.scheduler.members.workers.get(worker_id)
            if worker is None or not worker.leaving:
                del self._told[worker_id]  # gone, or back in another life
            elif not told and not self._is_needed(worker):
                self._told[worker_id] = True
                effects.append(Send(worker.hop, Drain(deadline_s=LEAVE_TIMEOUT_S)))
        return effects

    def repeat(self) -> Effects:
        """Say again what may have been lost."""
        workers = self.scheduler.members.workers
        leaving = [(workers[name], told) for name, told in self._told.items() if name in workers]
        closed = [effect for worker, _ in leaving for effect in self.close(worker)]
        go = Drain(deadline_s=LEAVE_TIMEOUT_S)
        return [*closed, *(Send(worker.hop, go) for worker, told in leaving if told)]

    def _is_needed(self, worker: Worker) -> bool:
        hop = worker.hop
        return bool(self.scheduler.flights.through(hop) or self.scheduler.requests.living_on(hop))


def leaving_word(worker: Worker) -> WorkerLeaving:
    """Put into words that nobody may move to a worker any more."""
    return WorkerLeaving(worker_id=worker.hop.worker_id, epoch=worker.hop.epoch)
