"""What the KV manager decides: who holds which pages. See `docs/state-machines.md`."""

from collections.abc import Callable
from typing import Any

from common.messages import (
    Hop,
    PagesFilled,
    PagesReleased,
    PoolsCounted,
    Register,
    Registered,
    ReleasePages,
    ReservePages,
    RouterHeartbeat,
    SpeedsMeasured,
    Tables,
    TablesWanted,
    WorkerJoined,
    WorkerLeaving,
    WorkerLost,
)
from common.runtime.counters import Measured
from common.runtime.effects import Effect, Note, Send, TermRaised
from common.runtime.member import Member, Patience
from services.kv_manager.answers import Answer, Answers
from services.kv_manager.placement import Placement
from services.kv_manager.tables import Parts


class KvManagerState:
    """Answers the router's commands about pages, each exactly once however often it is said."""

    def __init__(
        self, register: Register, router: Hop, patience: Patience, measured: Callable[[], Measured]
    ) -> None:
        self._member = Member(register, router, patience, measured)
        self._wanted = TablesWanted(worker_id=register.worker_id, epoch=register.epoch)
        self._router = router
        self._placement = Placement()
        self._answers = Answers()
        self._parts: Parts | None = Parts()
        """Of who holds what in this term; None once that is known."""

    def start(self, now: float) -> list[Effect]:
        """Join the cluster."""
        return self._member.start(now)

    @property
    def is_ready(self) -> bool:
        """Whether the router may give it work."""
        return self._member.is_ready

    def handle(self, event: Any, now: float) -> list[Effect]:
        """Take a message or an event, and give the effects it has."""
        match event:
            case ReservePages() | ReleasePages():
                return self._command(event)
            case PagesFilled():
                return self._filled(event)
            case SpeedsMeasured():
                self._placement.take_speeds(event.speeds)
                return []
            case Tables():
                return self._take_tables(event)
            case TermRaised():
                self._placement.begin_term()
                self._answers, self._parts = Answers(), Parts()
        return self._handle_membership(event, now)

    def _handle_membership(self, event: Any, now: float) -> list[Effect]:
        match event:
            case WorkerJoined():
                return self._joined(event)
            case WorkerLost() if event.worker_id != self._wanted.worker_id:
                return self._lost(event)
            case WorkerLeaving():
                self._placement.close(event.worker_id, event.epoch)
                return []
            case Registered():
                return [*self._member.handle(event, now), *self._get_ready()]
            case RouterHeartbeat():
                return [*self._member.handle(event, now), *self._beat()]
        return [*self._member.handle(event, now), *self._member.settle(idle=True)]

    def check(self) -> None:
        """Assert that every page of every pool is accounted for."""
        self._placement.check()

    def _get_ready(self) -> list[Effect]:
        """Offer to work, or ask first who holds what."""
        return self._member.ready() if self._parts is None else [Send(self._router, self._wanted)]

    def _beat(self) -> list[Effect]:
        counted = PoolsCounted(pools=self._placement.count())
        return [Send(self._router, counted), *(self._get_ready() if self._parts else [])]

    def _take_tables(self, part: Tables) -> list[Effect]:
        tables = self._parts.add(part) if self._parts else None
        if tables is None:
            return []
        if not self._placement.restore(tables):
            return [Note("tables do not fit the pools", {"tables": len(tables)}, "warning")]
        self._parts = None
        return [Note("tables restored", {"tables": len(tables)}), *self._member.ready()]

    def _joined(self, joined: WorkerJoined) -> list[Effect]:
        if not self._placement.join(joined):
            return []
        return [Note("pool joined", {"worker_id": joined.worker_id, "num_pages": joined.num_pages})]

    def _lost(self, lost: WorkerLost) -> list[Effect]:
        if not self._placement.lose(lost.worker_id, lost.epoch):
            return []
        return [Note("pool lost", {"worker_id": lost.worker_id})]

    def _filled(self, message: PagesFilled) -> list[Effect]:
        # Whoever was answered under a higher number has gone on since, and may hold other pages.
        current = [
            filled.request_id
            for filled in message.filled
            if (answer := self._answers.about(filled.request_id)) is None
            or answer.number < message.number
        ]
        self._placement.seal(message, current)
        return []

    def _command(self, command: ReservePages | ReleasePages) -> list[Effect]:
        answer = self._answers.about(command.request_id)
        if answer is not None and command.number < answer.number:
            return []  # overtaken: the router has had its answer, and went on from there
        if answer is None or command.number > answer.number:
            answer = self._decide(command)
            self._answers.remember(answer)
        return [Send(self._router, answer)]

    def _decide(self, command: ReservePages | ReleasePages) -> Answer:
        if isinstance(command, ReservePages):
            return self._placement.reserve(command)
        self._placement.release(command.request_id)
        return PagesReleased(number=command.number, request_id=command.request_id)
