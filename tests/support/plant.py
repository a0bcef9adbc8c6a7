"""A cluster as queues with planned durations, for tests of the control of what is in flight.

Engines serve the deepest first and links only delay; time is virtual, and a minute of it takes
milliseconds.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count
from typing import Any

from common.policy.batching import fan_out
from common.policy.in_flight import Bounds, InFlightControl, microbatch_limit
from common.policy.trips import Layout, Trip


@dataclass(slots=True)
class Engine:
    """Serves one piece of work at a time, the deepest first."""

    waiting: list[Any] = field(default_factory=list)
    busy: bool = False


@dataclass(slots=True, eq=False)
class Microbatch:
    sent_s: float
    entries: int
    workers: tuple[int, ...]
    layer: int = 0
    missing: int = 0
    slowest: tuple[float, float] = (0.0, 0.0)
    tier1_s: float = 0.0
    tier2_s: float = 0.0
    attention_s: float = 0.0
    queue_s: float = 0.0


@dataclass(slots=True)
class Plant:
    """Requests that decode for ever, and the control that sends them round.

    Attributes:
        fixed_s: Of one layer's visit, whatever its rows.
        row_s: Of one layer's visit, for each row.
        attend_s: Of one layer's attention, for each row.
        link_s: Of one message between the tiers, one way.
        contention: Times that everything takes while microbatches overlap on shared cores.
    """

    control: InFlightControl
    num_active: int = 256
    num_layers: int = 6
    num_ranges: int = 1
    num_attention_workers: int = 1
    shares_cores: bool = False
    fixed_s: float = 0.001
    row_s: float = 0.0001
    attend_s: float = 0.0001
    link_s: float = 0.0002
    contention: float = 1.0
    jitter: Callable[[], float] = lambda: 1.0
    now: float = 0.0
    rows_home: int = 0
    numbers: list[tuple[float, int]] = field(default_factory=list)
    """When the control changed the number, and to what."""
    _events: list[Any] = field(default_factory=list)
    _order: Any = field(default_factory=count)
    _layer_engines: dict[int, Engine] = field(default_factory=dict)
    _attention_engines: dict[int, Engine] = field(default_factory=dict)
    _live: int = 0
    _travelling: int = 0
    _next_worker: int = 0

    @property
    def layout(self) -> Layout:
        return Layout(
            num_layers=self.num_layers,
            num_ranges=self.num_ranges,
            num_layer_workers=self.num_ranges,
            num_attention_workers=self.num_attention_workers,
            shares_cores=self.shares_cores,
        )

    def run(self, seconds: float) -> float:
        """Let time pass; gives the rows per second of its second half."""
        end_s, half_s, rows_at_half = self.now + seconds, self.now + seconds / 2, None
        self._launch()
        while self._events and self._events[0][0] <= end_s:
            self.now, _, call = heappop(self._events)
            if rows_at_half is None and self.now >= half_s:
                rows_at_half = self.rows_home
            call()
        self.now = end_s
        return (self.rows_home - (rows_at_half or 0)) / (seconds / 2)

    def _after(self, seconds: float, call: Callable[[], None]) -> None:
        heappush(self._events, (self.now + seconds, next(self._order), call))

    def _launch(self) -> None:
        control = self.control
        while self._live < control.in_flight and self._travelling < self.num_active:
            limit = microbatch_limit(self.num_active, control.in_flight, control.bounds.max_entries)
            entries = min(limit, self.num_active - self._travelling)
            width = min(entries, fan_out(self.num_attention_workers, self.num_ranges))
            workers = tuple(
                (self._next_worker + place) % self.num_attention_workers for place in range(width)
            )
            self._next_worker += width
            self._live += 1
            self._travelling += entries
            self._visit(Microbatch(self.now, entries, workers))

    def _visit(self, microbatch: Microbatch) -> None:
        span = -(-self.num_layers // self.num_ranges)
        place = 0 if self.shares_cores else microbatch.layer // span
        seconds = self.fixed_s + self.row_s * microbatch.entries

        def done(took_s: float, waited_s: float) -> None:
            microbatch.tier1_s += took_s
            microbatch.queue_s += waited_s
            self._attend(microbatch)

        self._serve(self._layer_engines, place, microbatch, seconds, done)

    def _attend(self, microbatch: Microbatch) -> None:
        microbatch.missing, microbatch.slowest = len(microbatch.workers), (0.0, 0.0)
        seconds = self.attend_s * microbatch.entries / len(microbatch.workers)
        engines = self._layer_engines if self.shares_cores else self._attention_engines

        def done(took_s: float, waited_s: float) -> None:
            microbatch.attention_s += took_s
            microbatch.slowest = max(microbatch.slowest, (took_s + waited_s, took_s))
            self._after(self.link_s, lambda: self._come_back(microbatch))

        for worker in microbatch.workers:
            place = 0 if self.shares_cores else worker
            arrive = self._arrival(engines, place, microbatch, seconds, done)
            self._after(self.link_s, arrive)

    def _arrival(self, *arguments: Any) -> Callable[[], None]:
        return lambda: self._serve(*arguments)

    def _come_back(self, microbatch: Microbatch) -> None:
        microbatch.missing -= 1
        if microbatch.missing:
            return
        stayed_s, took_s = microbatch.slowest
        microbatch.tier2_s += took_s
        microbatch.queue_s += stayed_s - took_s
        microbatch.layer += 1
        if microbatch.layer < self.num_layers:
            self._visit(microbatch)
        else:
            self._come_home(microbatch)

    def _come_home(self, microbatch: Microbatch) -> None:
        self._live -= 1
        self._travelling -= microbatch.entries
        self.rows_home += microbatch.entries
        trip = Trip(
            sent_s=microbatch.sent_s,
            home_s=self.now,
            num_entries=microbatch.entries,
            num_rows=microbatch.entries,
            tier1_s=microbatch.tier1_s,
            tier2_s=microbatch.tier2_s,
            attention_s=microbatch.attention_s,
            queue_s=microbatch.queue_s,
        )
        before = self.control.in_flight
        self.control.come_home(trip, self.layout, self.num_active)
        if self.control.in_flight != before:
            self.numbers.append((self.now, self.control.in_flight))
        self._launch()

    def _serve(
        self,
        engines: dict[int, Engine],
        place: int,
        microbatch: Microbatch,
        seconds: float,
        done: Callable[[float, float], None],
    ) -> None:
        engine = engines.setdefault(place, Engine())
        seconds *= self.jitter() * (self.contention if self._live > 1 else 1.0)
        work = (-microbatch.layer, next(self._order), self.now, seconds, done)
        heappush(engine.waiting, work)
        self._occupy(engine)

    def _occupy(self, engine: Engine) -> None:
        if engine.busy or not engine.waiting:
            return
        engine.busy = True
        _, _, since_s, seconds, done = heappop(engine.waiting)
        waited_s = self.now - since_s

        def end() -> None:
            engine.busy = False
            done(seconds, waited_s)
            self._occupy(engine)

        self._after(seconds, end)


def plant(
    in_flight: int = 3, max_in_flight: int = 128, max_entries: int = 256, **shape: Any
) -> Plant:
    """Make a plant whose control begins with this number."""
    bounds = Bounds(max_in_flight=max_in_flight, max_entries=max_entries, max_rows=2048)
    return Plant(InFlightControl(bounds, in_flight), **shape)


class _Fixed(InFlightControl):
    """Never changes the number."""

    def come_home(self, trip: Trip, layout: Layout, num_active: int) -> None:
        pass


def best_fixed(max_in_flight: int = 64, seconds: float = 20.0, **shape: Any) -> tuple[int, float]:
    """Try fixed numbers, and give the best with its rows per second."""
    paces = {}
    number = 1
    while number <= max_in_flight:
        fixed = plant(number, **shape)
        fixed.control = _Fixed(fixed.control.bounds, number)
        paces[number] = fixed.run(seconds)
        number += max(1, number // 4)
    best = max(paces, key=lambda number: paces[number])
    return best, paces[best]
