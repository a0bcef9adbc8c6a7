"""How fast passes follow each other when several microbatches are in flight: queues, in closed form."""

from dataclasses import dataclass, field

WAITING = 0.5
"""How much of an engine's backlog an arriving microbatch has to wait for, on average: 1 if visits
came and lasted at random, 0 if they were planned. Fits the emulated clusters of the tests."""

_UNKNOWN_FIXED_SHARE = 0.5
_APART = 1.5
"""Sizes that differ by less say more about noise than about how seconds grow with rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """What one microbatch's pass through the model consists of."""

    engines_s: float
    """Seconds in engines, one after the other."""
    delay_s: float
    """Seconds between engines: links, and all else that keeps no engine busy."""
    busiest_s: float
    """Seconds that it takes of the engine that has the most to do."""

    @property
    def alone_s(self) -> float:
        """Seconds of a pass that meets no other microbatch."""
        return self.engines_s + self.delay_s

    def per_s(self, in_flight: int) -> float:
        """Give the passes per second of so many microbatches in flight.

        Exact for one; then waiting in line grows with each more, until the busiest engine never rests.

        Source: after the balanced job bounds of Zahorjan, Sevcik, Eager, Galler, CACM 25 (2), 1982.
        """
        backlog_s = (in_flight - 1) * self.busiest_s * self.engines_s / self.alone_s
        return min(in_flight / (self.alone_s + WAITING * backlog_s), 1 / self.busiest_s)


@dataclass(slots=True)
class VisitTimes:
    """Learns how the seconds of tier 1 grow with the rows of a microbatch."""

    _seen: dict[int, tuple[float, float]] = field(default_factory=dict)
    """Rows and seconds, averaged; one for each power of two of the rows."""

    def note(self, num_rows: int, seconds: float) -> None:
        """Take what the visits of one pass took."""
        size = num_rows.bit_length()
        rows_before, seconds_before = self._seen.get(size, (num_rows, seconds))
        weight = 1 / 8
        self._seen[size] = (
            rows_before + weight * (num_rows - rows_before),
            seconds_before + weight * (seconds - seconds_before),
        )

    def scale(self, num_rows: float, other_rows: float) -> float:
        """Give the factor by which a pass of `other_rows` takes longer than one of `num_rows`."""
        fixed = self._fixed_share(num_rows)
        return fixed + (1 - fixed) * other_rows / num_rows

    def _fixed_share(self, num_rows: float) -> float:
        """Give the part of a pass's seconds that does not depend on its rows, from two sizes seen."""
        near = sorted(self._seen.values(), key=lambda seen: abs(seen[0] - num_rows))
        other = next(
            (seen for seen in near if not 1 / _APART < seen[0] / near[0][0] < _APART), None
        )
        if other is None:
            return _UNKNOWN_FIXED_SHARE
        (rows, seconds), (other_rows, other_seconds) = near[0], other
        slope = (other_seconds - seconds) / (other_rows - rows)
        return min(1.0, max(0.0, 1 - slope * rows / seconds)) if seconds else 0.0
