"""What a process counts about itself, for heartbeats, metrics and reports."""

from collections import Counter
from dataclasses import dataclass, field

from common.ids import WorkerId
from common.messages.member import LinkBytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What a worker's heartbeat says about its work."""

    progress: int
    """Engine visits done since start."""
    busy_s: float
    """Seconds of engine time since start."""
    tokens_per_s: float = 0.0
    """Tokens of one layer that were attended to per second of engine time; 0 = none yet."""
    busy: bool = False
    """The engine has something to do."""
    links: tuple[LinkBytes, ...] = ()
    waiting_for: tuple[WorkerId, ...] = ()
    """Peers whose answers it misses."""


@dataclass(slots=True)
class Counters:
    """Plain sums since the process started."""

    visits: int = 0
    """Engine visits done, failed ones included."""
    busy_s: float = 0.0
    """Seconds of engine time."""
    received: int = 0
    """Messages that were taken in."""
    rejected: Counter[str] = field(default_factory=Counter)
    """What the wire kept out, by kind of `WireError`."""
    dropped: Counter[str] = field(default_factory=Counter)
    """Messages of another life or term, by reason."""
    sent_bytes: Counter[WorkerId] = field(default_factory=Counter)
    """Bytes of tensors, by peer."""

    def measured(self) -> Measured:
        """Sum up what a heartbeat tells."""
        links = tuple(
            LinkBytes(peer=peer, sent_bytes=size) for peer, size in self.sent_bytes.items()
        )
        return Measured(progress=self.visits, busy_s=self.busy_s, links=links)
