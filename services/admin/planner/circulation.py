"""Discrete events of equal microbatches that circulate through the same stations for ever."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heappop, heappush, heapreplace
from typing import Literal, NamedTuple

Order = Literal["deepest-first", "first-come"]


@dataclass(frozen=True, slots=True)
class Stop:
    """A part of the way: so long at that station."""

    station: int
    """Stations are numbered in the order in which events of equal time happen."""
    delay: float
    holds_any: bool = False
    """A latency: whoever comes passes at once. Other stations serve one at a time."""


class _Step(NamedTuple):
    delay: float
    is_serial: bool
    next_step: int
    next_rank: int
    """The lower it is, the sooner is the next step served."""
    next_station: int
    next_latency: float


class Circulation:
    """Microbatches on their way round.

    A station takes, among those that have arrived, the one that is deepest on the way, or the one
    that came first. A serial station that is reached from more than one other must be reached through
    latencies.

    Attributes:
        num_events: Times that a microbatch was served at a station.
        events_per_round: Times in all until everybody has come round once.
    """

    def __init__(self, way: Sequence[Stop], in_flight: int, order: Order = "deepest-first") -> None:
        """Let all microbatches stand before the first stop at time zero.

        Args:
            way: Leads back to its first stop, which is no latency.
            in_flight: How many microbatches circulate.
            order: How stations choose.
        """
        numbers = _number_stations(way)
        self.num_events = 0
        self.events_per_round = len(way) * in_flight
        self._steps = _steps(way, numbers, order)
        first = numbers[way[0].station]
        self._free_at = [0.0] * len(numbers)
        self._coming: list[deque[tuple[float, _Ticket]]] = [deque() for _ in numbers]
        """Who arrives at a station, and when; in that order, since nobody overtakes."""
        self._arrived: list[list[_Ticket]] = [[] for _ in numbers]
        self._events = [(0.0, first)]
        """A heap of (time, station), one for each station that has anybody to serve."""
        for microbatch in range(in_flight):
            self._coming[first].append((0.0, (0, microbatch - in_flight, microbatch, 0)))

    def wraps(self, num_wraps: int) -> list[float]:
        """Go on until the first microbatch has come round so many times; give those times."""
        return [self._next_wrap() for _ in range(num_wraps)]

    def _next_wrap(self) -> float:
        # One loop without calls: plans and figures wait for hundreds of millions of its turns.
        events, coming, arrived = self._events, self._coming, self._arrived
        steps, free_at, num_events = self._steps, self._free_at, self.num_events
        while True:
            now, station = events[0]
            here, ready = coming[station], arrived[station]
            while here and here[0][0] <= now:
                heappush(ready, here.popleft()[1])
            _, _, microbatch, step = heappop(ready)
            delay, is_serial, next_step, next_rank, next_station, latency = steps[step]
            end = now + delay
            if is_serial:
                free_at[station] = end
            if ready or here:
                since = now if ready else here[0][0]
                heapreplace(events, (max(free_at[station], since), station))
            else:
                heappop(events)
            there = coming[next_station]
            arrives = end + latency
            if not there and not arrived[next_station]:
                heappush(events, (max(arrives, free_at[next_station]), next_station))
            there.append((arrives, (next_rank, num_events, microbatch, next_step)))
            num_events += 1
            if next_step == 0 and microbatch == 0:
                self.num_events = num_events
                return arrives


_Ticket = tuple[int, int, int, int]
"""(rank, how many events were before it was sent here, microbatch, step): the lowest is served first."""


def _number_stations(way: Sequence[Stop]) -> dict[int, int]:
    """Give stations numbers in the order of events of equal time.

    Latencies come first, so that whoever arrives at this very moment has arrived; but one of zero
    keeps its place, as in the original.
    """
    arrives_first = {stop.station: stop.holds_any and stop.delay > 0 for stop in way}
    ordered = sorted(arrives_first, key=lambda station: (not arrives_first[station], station))
    return {station: number for number, station in enumerate(ordered)}


def _steps(way: Sequence[Stop], numbers: dict[int, int], order: Order) -> list[_Step]:
    steps = []
    for place, stop in enumerate(way):
        next_step = (place + 1) % len(way)
        following = way[next_step]
        steps.append(
            _Step(
                # A latency is over when it is served: it passed before.
                delay=0.0 if stop.holds_any else stop.delay,
                is_serial=not stop.holds_any,
                next_step=next_step,
                next_rank=-next_step if order == "deepest-first" else 0,
                next_station=numbers[following.station],
                next_latency=following.delay if following.holds_any else 0.0,
            )
        )
    return steps
