"""What a state wants done, and what it is told: the border between deciding and waiting.

`state.handle(event, now)` takes a message or one of the events below and returns effects; the
service loop carries them out in order. `now` is monotonic seconds.
"""

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any, Protocol

from common.errors import GlinthawkError
from common.ids import Endpoint, Epoch, Term
from common.messages.base import Message
from common.messages.step import Hop


@dataclass(frozen=True, slots=True)
class Send:
    """Say this to a peer. A link that would block counts as lost (`LinkLost`)."""

    to: Hop
    message: Message


@dataclass(frozen=True, slots=True)
class SetTimer:
    """Tell me `TimerFired(key)` at this time; replaces an earlier timer of the same key."""

    key: Hashable
    at_s: float


@dataclass(frozen=True, slots=True)
class CancelTimer:
    """Forget the timer of this key, if there is one."""

    key: Hashable


@dataclass(frozen=True, slots=True)
class Run:
    """Let the engine do this off the loop; what it returns comes back as an event.

    Work runs one at a time, in the order of the effects.
    """

    work: Any
    brief: bool = False
    """The loop is to do it itself, since waking two threads would take longer than it may wait.
    Only while the engine has nothing else."""


@dataclass(frozen=True, slots=True)
class Note:
    """Write one log line: states do not log."""

    event: str
    fields: dict[str, Any] = field(default_factory=dict)
    level: str = "info"


@dataclass(frozen=True, slots=True)
class Stop:
    """End the process."""

    reason: str
    exit_code: int = 0


Effect = Send | SetTimer | CancelTimer | Run | Note | Stop
"""What every service loop can carry out; a service may add effects of its own."""


@dataclass(frozen=True, slots=True)
class TimerFired:
    """The time of a timer has come."""

    key: Hashable


@dataclass(frozen=True, slots=True)
class WorkFailed:
    """The engine raised; a typed error is about the work, any other is a bug."""

    work: Any
    error: GlinthawkError | Exception


@dataclass(frozen=True, slots=True)
class LinkLost:
    """A peer's inbox is gone, or takes nothing more.

    The address alone would be too little: the peer's next life may have it already.
    """

    endpoint: Endpoint
    epoch: Epoch
    """The life of the peer that the link led to."""


@dataclass(frozen=True, slots=True)
class TermRaised:
    """A router of a higher term has spoken: the old router's microbatches are void."""

    term: Term


@dataclass(frozen=True, slots=True)
class StopRequested:
    """The process was asked to end (SIGTERM, Ctrl-C): finish or hand back, then `Stop`."""


class State(Protocol):
    """The deciding part of a service."""

    def start(self, now: float) -> list[Any]:
        """Give the effects of the process's start."""
        ...

    def handle(self, event: Any, now: float) -> list[Any]:
        """Take a message or an event, and give the effects it has."""
        ...
