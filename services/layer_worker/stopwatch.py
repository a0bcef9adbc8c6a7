"""Adds up where a microbatch's time goes while it is here."""

from dataclasses import asdict, dataclass
from typing import Self

from common.messages import AttentionResult, StageTimes


@dataclass(slots=True, kw_only=True)
class Stopwatch:
    """The times of `StageTimes`, still running."""

    tier1_s: float = 0.0
    tier2_s: float = 0.0
    wait_s: float = 0.0
    queue_s: float = 0.0
    attention_s: float = 0.0
    attention_queue_s: float = 0.0

    @classmethod
    def going_on(cls, times: StageTimes) -> Self:
        """Go on from what the ranges before have measured."""
        return cls(**asdict(times))

    def note_wait(self, wait_s: float, slowest: AttentionResult) -> None:
        """Add a layer whose shards are back."""
        self.wait_s += wait_s
        self.tier2_s += slowest.engine_s
        self.attention_queue_s += slowest.queue_s

    def read(self) -> StageTimes:
        """Give the times so far."""
        return StageTimes(**asdict(self))
