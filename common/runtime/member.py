"""A worker's membership: register, be told a role, say how far one is, and leave in order.

    joining ──Registered──▶ member ──StopRequested──▶ leaving ──Drain──▶ parting ──idle──▶ gone
       ▲                      │ └────────────────Drain──────────────────────▲
       └── term raised, router silent or lost

Part of each worker's state: it decides like a state, and its effects are part of the worker's.
The worker's data stays as it is through all of this; only what the router says next changes it.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from math import inf
from typing import Any

from common.messages.base import Message
from common.messages.member import (
    Drain,
    DrainWanted,
    Heartbeat,
    LayerRole,
    Register,
    Registered,
    RegisterRefused,
    RouterHeartbeat,
    WorkerLost,
    WorkerReady,
)
from common.messages.step import Hop
from common.runtime.counters import Measured
from common.runtime.effects import (
    CancelTimer,
    Effect,
    LinkLost,
    Note,
    Send,
    SetTimer,
    Stop,
    StopRequested,
    TermRaised,
    TimerFired,
)

EXIT_REFUSED = 3
"""The router does not want this worker; the reason is in the log."""

EXIT_GIVEN_UP = 4
"""The router counted this worker as lost; started again, it joins in a new epoch."""

_TRIES_BEFORE_WONDER = 4

_FINISH_SHARE = 0.8
"""Of the time to leave: so long requests may end where they are. In the rest, what is in flight comes
home, so that nothing is under way to a worker that goes."""


class MemberTimer(Enum):
    """The timers that a member sets."""

    TURN = "turn"
    """Time to speak to the router: to register again, or to send a heartbeat."""
    LEAVE = "leave"
    """Time to leave, finished or not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long a member waits for what; see the settings of these names."""

    register_interval_s: float
    router_silence_s: float
    stop_timeout_s: float


class Standing(Enum):
    """How a worker stands with the router."""

    JOINING = "joining"
    MEMBER = "member"
    GONE = "gone"


class Member:
    """Keeps a worker known to the router.

    The worker's state gives it all events that are not its own, passes on `Registered` (and starts
    what the role asks for), says `ready` whenever it is registered and built, and ends each turn
    with `settle`.
    """

    def __init__(
        self, register: Register, router: Hop, patience: Patience, measured: Callable[[], Measured]
    ) -> None:
        """Make a member that has not joined yet.

        Args:
            register: What this worker says about itself.
            router: Its epoch is 0.
            patience: How long to wait.
            measured: Gives what the next heartbeat tells.
        """
        self._register = register
        self._router = router
        self._patience = patience
        self._measured = measured
        self._standing = Standing.JOINING
        self._heartbeat_s = patience.register_interval_s
        self._heard_at_s = 0.0
        self._leaving: str | None = None
        """Why it is to end."""
        self._may_go = False
        """Nobody needs it any more: it leaves as soon as its engine rests."""
        self._leave_at_s, self._finish_by_s = inf, inf
        self._num_unanswered = 0
        """Registrations since the router last answered one."""
        self._ready_as: WorkerReady | None = None
        """What it told the router of this term when it was built; said again, as it may get lost."""

    @property
    def leaving(self) -> bool:
        """Whether this worker was asked to end."""
        return self._leaving is not None

    @property
    def is_ready(self) -> bool:
        """Whether the router may give this worker work."""
        return self._ready_as is not None and self._standing is Standing.MEMBER and not self.leaving

    def start(self, now: float) -> list[Effect]:
        """Knock at the router's door for the first time."""
        return self._join(now)

    def ready(self, num_pages: int = 0, layers: LayerRole | None = None) -> list[Effect]:
        """Offer to work; to be said after each `Registered`, once the role is built.

        Nothing is said while the router does not know this worker: it will register it again.
        """
        if self._standing is not Standing.MEMBER or self.leaving:
            return []
        self._ready_as = WorkerReady(
            worker_id=self._register.worker_id,
            epoch=self._register.epoch,
            num_pages=num_pages,
            layers=layers,
        )
        return [Send(self._router, self._ready_as)]

    def settle(self, *, idle: bool) -> list[Effect]:
        """Leave if nobody needs this worker any more and nothing is left to do."""
        return self._leave() if idle and self._may_go else []

    def handle(self, event: Any, now: float) -> list[Effect]:
        """Take an event that is about membership; others have no effect."""
        match event:
            case Registered(heartbeat_s=heartbeat_s):
                return self._registered(heartbeat_s, now)
            case RouterHeartbeat():
                self._heard_at_s = now
                return []
            case TimerFired(MemberTimer.TURN):
                return self._turn(now)
            case TermRaised(term):
                self._register = replace(self._register, term=term)
                return self._join_again("the router's term was raised", now)
            case LinkLost(endpoint=endpoint) if endpoint == self._router.endpoint:
                return self._join_again("the link to the router is lost", now)
            case _:
                return self._handle_end(event, now)

    def _handle_end(self, event: Any, now: float) -> list[Effect]:
        match event:
            case RegisterRefused(reason=reason):
                self._standing = Standing.GONE
                return [Stop(f"refused by the router: {reason}", exit_code=EXIT_REFUSED)]
            case WorkerLost(worker_id=worker_id) if worker_id == self._register.worker_id:
                return self._given_up(now)
            case StopRequested():
                return self._stop_requested(now)
            case Drain(deadline_s=deadline_s):
                return self._part(self._leaving or "drained", now + deadline_s)
            case TimerFired(MemberTimer.LEAVE):
                return self._leave()
            case Message():
                return [Note("message to nobody here", {"tag": event.TAG}, level="warning")]
            case _:
                return []

    def _join(self, now: float) -> list[Effect]:
        if self.leaving:
            return []
        self._standing, self._ready_as = Standing.JOINING, None
        self._num_unanswered += 1
        next_s = now + self._patience.register_interval_s
        return [
            *self._wonder(),
            Send(self._router, self._register),
            SetTimer(MemberTimer.TURN, next_s),
        ]

    def _wonder(self) -> list[Effect]:
        """Say at the 4th, 8th, 16th … try that nobody answers."""
        tries = self._num_unanswered
        if tries < _TRIES_BEFORE_WONDER or tries & (tries - 1):
            return []
        fields = {
            "router": self._router.endpoint,
            "tries": tries,
            "hint": "is it up, at this address, and of the same release?",
        }
        return [Note("the router does not answer", fields, level="warning")]

    def _join_again(self, reason: str, now: float) -> list[Effect]:
        if self._standing is not Standing.MEMBER:
            return []
        if self.leaving:
            return self._leave()  # to the next router, or life of it, it would be news
        return [Note("registering again", {"reason": reason}), *self._join(now)]

    def _given_up(self, now: float) -> list[Effect]:
        """The router has ended this life: what it held counts for nothing any more.

        Weights are the same in every life; pages and tables must not outlive theirs.
        """
        if self.leaving:
            return self._leave()
        if self._register.role == "layer_worker":
            return self._join_again("the router had given this worker up", now)
        self._standing = Standing.GONE
        return [Stop("the router had given this worker up", exit_code=EXIT_GIVEN_UP)]

    def _registered(self, heartbeat_s: float, now: float) -> list[Effect]:
        was_member = self._standing is Standing.MEMBER
        self._standing, self._num_unanswered, self._ready_as = Standing.MEMBER, 0, None
        self._heartbeat_s = heartbeat_s
        self._heard_at_s = now
        if was_member:  # said again: the next heartbeat must not be put off by it
            return []
        return [Note("registered"), SetTimer(MemberTimer.TURN, now + heartbeat_s)]

    def _turn(self, now: float) -> list[Effect]:
        if self._standing is Standing.JOINING:
            return self._join(now)
        if now - self._heard_at_s > self._patience.router_silence_s:
            return self._join_again("the router is silent", now)
        next_turn = SetTimer(MemberTimer.TURN, now + self._heartbeat_s)
        return [Send(self._router, self._heartbeat()), *self._repeat(now), next_turn]

    def _repeat(self, now: float) -> list[Effect]:
        """Say again what the router may not have heard."""
        if self._may_go:
            return []
        if self.leaving:
            return [self._want_to_go(now)]
        return [Send(self._router, self._ready_as)] if self._ready_as else []

    def _heartbeat(self) -> Heartbeat:
        measured = self._measured()
        return Heartbeat(
            worker_id=self._register.worker_id,
            epoch=self._register.epoch,
            progress=measured.progress,
            busy=measured.busy,
            busy_s=measured.busy_s,
            tokens_per_s=measured.tokens_per_s,
            links=measured.links,
            waiting_for=measured.waiting_for,
        )

    def _stop_requested(self, now: float) -> list[Effect]:
        """Ask the router to be drained; without one, or without requests, there is no need to."""
        self._finish_by_s = now + _FINISH_SHARE * self._patience.stop_timeout_s
        leave_at_s = now + self._patience.stop_timeout_s
        if self._standing is not Standing.MEMBER or self._register.role == "kv_manager":
            return self._part("asked to stop", leave_at_s)
        return [self._want_to_go(now), *self._prepare_to_leave("asked to stop", leave_at_s)]

    def _want_to_go(self, now: float) -> Send:
        wanted = DrainWanted(
            worker_id=self._register.worker_id,
            epoch=self._register.epoch,
            deadline_s=max(0.0, self._finish_by_s - now),
        )
        return Send(self._router, wanted)

    def _part(self, reason: str, leave_at_s: float) -> list[Effect]:
        if self._may_go:
            return []  # said again
        self._may_go = True
        return self._prepare_to_leave(reason, leave_at_s)

    def _prepare_to_leave(self, reason: str, leave_at_s: float) -> list[Effect]:
        note = [] if self.leaving else [Note("leaving", {"reason": reason})]
        self._leaving, self._leave_at_s = reason, min(self._leave_at_s, leave_at_s)
        return [*note, SetTimer(MemberTimer.LEAVE, self._leave_at_s)]

    def _leave(self) -> list[Effect]:
        was_member, self._standing = self._standing is Standing.MEMBER, Standing.GONE
        lost = WorkerLost(worker_id=self._register.worker_id, epoch=self._register.epoch)
        goodbye: list[Effect] = [Send(self._router, lost)] if was_member else []
        return [
            *goodbye,
            CancelTimer(MemberTimer.TURN),
            CancelTimer(MemberTimer.LEAVE),
            Stop(self._leaving or "left"),
        ]
