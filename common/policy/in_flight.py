"""How many microbatches travel at once: predicted from what the last passes took, then verified."""

from dataclasses import dataclass, field, replace
from math import ceil, inf

from common.policy.pace import VisitTimes
from common.policy.trips import Layout, Situation, Trip, observe

GAIN = 1.05
"""A number is changed only for so many times the pace."""

_WINDOW, _WINDOW_S = 8, 2.0
"""A pace is taken over whole passes, and over so many trips or seconds: microbatches come home in
bunches, and of a bunch and a half the pace would seem half as high again."""
_NEARLY_BEST = 0.99
"""Of the numbers that come so near to the best, the smallest is taken: less is parked."""
_COMPARABLE = 1.25
"""Between situations that differ by more, a pace says nothing about the number."""
_SIMILAR = 1.5
"""In situations that differ by more, verdicts are void."""
_SHORTEST_VALIDITY_S, _LONGEST_VALIDITY_S = 60.0, 3600.0


def starting_in_flight(num_ranges: int, *, shares_cores: bool) -> int:
    """Choose the number of microbatches in flight before anything was measured.

    With its own machines each range needs one microbatch in its engine, one in attention and one
    on the way: `F = ranges × (1 + ceil((out + attention + back + RTT) / visit))` (docs/design.md)
    with a remainder of two visits. Workers that share cores gain nothing from overlap: the tiers
    take turns, and one microbatch keeps each range busy (measured on two cores, one range, workload
    A, beside other work: 1 in flight gave 1.07 to 1.44 times the tokens/s of 2).
    """
    return num_ranges if shares_cores else 3 * num_ranges


def microbatch_limit(num_active: int, in_flight: int, max_entries: int) -> int:
    """Give the most entries of one microbatch, so that all of them are about equally full."""
    return max(1, min(max_entries, ceil(num_active / in_flight)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What may be chosen from."""

    min_in_flight: int = 1
    max_in_flight: int
    max_entries: int
    """Of one microbatch."""
    max_rows: int
    """Of one microbatch."""


def predict(situation: Situation, in_flight: int, bounds: Bounds, visit_times: VisitTimes) -> float:
    """Give the rows per second with so many microbatches in flight, each as large as that allows."""
    num_travelling = min(in_flight, situation.num_active)
    entries = microbatch_limit(situation.num_active, num_travelling, bounds.max_entries)
    num_rows = min(bounds.max_rows, entries * situation.rows_per_entry)
    alone = situation.of_size(num_rows, visit_times).alone()
    return alone.per_s(num_travelling) * num_rows if alone.busiest_s > 0 else inf


def choose_in_flight(
    situation: Situation, in_flight: int, bounds: Bounds, visit_times: VisitTimes
) -> int:
    """Choose the number that promises the best pace; the present one, where none promises `GAIN`."""
    paces = {
        number: predict(situation, number, bounds, visit_times)
        for number in sorted({*_CANDIDATES, in_flight})
        if bounds.min_in_flight <= number <= bounds.max_in_flight
    }
    best = max(paces.values())
    if not best >= GAIN * paces[in_flight]:
        return in_flight
    return next(number for number, pace in paces.items() if pace >= _NEARLY_BEST * best)


def _candidates() -> tuple[int, ...]:
    """Give numbers that are never more than an eighth apart, or one."""
    numbers = [1]
    while numbers[-1] < 1024:
        numbers.append(numbers[-1] + max(1, numbers[-1] // 8))
    return tuple(numbers)


_CANDIDATES = _candidates()


@dataclass(frozen=True, slots=True)
class _Trial:
    """A change whose effect is not known yet."""

    number_before: int
    before: Situation


@dataclass(frozen=True, slots=True)
class _Verdicts:
    """Numbers that have lost a comparison, and what is beyond them, for a while."""

    situation: Situation
    until_s: float
    low: int = 0
    high: int = 2**31

    def stand_in(self, situation: Situation, now_s: float) -> bool:
        """Say whether they still count: not too old, nor about another load or distance."""
        then = self.situation
        noise_s = max(then.delay_s / 2, then.alone().alone_s / 10)
        moved = abs(situation.delay_s - then.delay_s) > noise_s
        return now_s < self.until_s and not moved and situation.resembles(then, _SIMILAR)


@dataclass(slots=True)
class InFlightControl:
    """Sets the number of microbatches in flight from the trips that came home.

    It changes the number for a predicted gain, at most once in two passes, and compares the pace
    after with the pace before. The better number stays, and the other bounds what may be tried, so
    that the control comes to rest. A verdict that has expired is given twice the time when it is
    repeated.
    """

    bounds: Bounds
    in_flight: int
    _visit_times: VisitTimes = field(default_factory=VisitTimes)
    _trips: list[Trip] = field(default_factory=list)
    """Home since the last look, and sent after the last change."""
    _changed_s: float = -inf
    _trial: _Trial | None = None
    _verdicts: _Verdicts | None = None
    _validity_s: float = _SHORTEST_VALIDITY_S

    def come_home(self, trip: Trip, layout: Layout, num_active: int) -> None:
        """Take a trip; the number may be another afterwards."""
        self._visit_times.note(trip.num_rows, trip.tier1_s)
        if trip.sent_s < self._changed_s:
            return
        self._trips.append(trip)
        if self._has_seen_enough():
            situation = observe(self._trips, layout, num_active)
            self._trips.clear()
            self._decide(situation, trip.home_s)

    def _has_seen_enough(self) -> bool:
        first, last = self._trips[0], self._trips[-1]
        num_later = len(self._trips) - 1
        is_long = num_later >= _WINDOW or last.home_s - first.home_s > _WINDOW_S
        return is_long and num_later > 0 and num_later % self.in_flight == 0

    def _decide(self, situation: Situation, now_s: float) -> None:
        self._review(situation, now_s)
        here, situation = self._judge(situation, now_s)
        number = choose_in_flight(situation, here, self._open_bounds(), self._visit_times)
        if number != here:
            self._trial = _Trial(here, situation)
        if number != self.in_flight:
            self.in_flight, self._changed_s = number, now_s

    def _review(self, situation: Situation, now_s: float) -> None:
        """Forget verdicts that no longer count."""
        if self._verdicts is None or self._verdicts.stand_in(situation, now_s):
            return
        repeats = self._verdicts.stand_in(situation, self._verdicts.until_s - 1)
        longer_s = min(2 * self._validity_s, _LONGEST_VALIDITY_S)
        self._validity_s = longer_s if repeats else _SHORTEST_VALIDITY_S
        self._verdicts = None

    def _judge(self, situation: Situation, now_s: float) -> tuple[int, Situation]:
        """Compare with what was before the last change; give the better number and its situation."""
        trial, self._trial = self._trial, None
        if trial is None or not situation.resembles(trial.before, _COMPARABLE):
            return self.in_flight, situation
        is_better = situation.pace >= trial.before.pace
        loser = trial.number_before if is_better else self.in_flight
        verdicts = self._verdicts or _Verdicts(trial.before, now_s + self._validity_s)
        if loser > min(trial.number_before, self.in_flight):
            self._verdicts = replace(verdicts, high=min(verdicts.high, loser))
        else:
            self._verdicts = replace(verdicts, low=max(verdicts.low, loser))
        return (self.in_flight, situation) if is_better else (trial.number_before, trial.before)

    def _open_bounds(self) -> Bounds:
        """Give the numbers between those that have lost."""
        if self._verdicts is None:
            return self.bounds
        return replace(
            self.bounds,
            min_in_flight=self._verdicts.low + 1,
            max_in_flight=min(self.bounds.max_in_flight, self._verdicts.high - 1),
        )
