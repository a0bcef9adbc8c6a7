"""What microbatches in flight met on their way: the measurements that the control goes by."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf
from statistics import fmean

from common.policy.pace import Pass, VisitTimes

_HANDLING_S = 0.001
"""Processor time of one layer's round trip beside the engines, at most (measured: 0.8 ms). On
shared cores no overlap can hide it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """The cluster's shape, as far as it decides what can overlap."""

    num_layers: int
    num_ranges: int
    num_layer_workers: int
    num_attention_workers: int
    shares_cores: bool
    """Both tiers compute on the same cores."""

    @property
    def is_whole(self) -> bool:
        """Whether each tier has a worker; a cluster that is falling apart teaches nothing."""
        return self.num_layer_workers > 0 and self.num_attention_workers > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Trip:
    """A microbatch's way from the router through the model and home again."""

    sent_s: float
    home_s: float
    num_entries: int
    num_rows: int
    tier1_s: float
    """Seconds in layer engines."""
    tier2_s: float
    """Seconds in attention engines, of each layer's slowest shard."""
    attention_s: float
    """Seconds in attention engines, of all shards."""
    queue_s: float
    """Seconds in line for an engine of either tier."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """The mean trip of a while, and what it travelled through."""

    layout: Layout
    num_active: int
    """Requests that travel, or will in a moment."""
    num_entries: float
    num_rows: float
    tier1_s: float
    tier2_s: float
    attention_s: float
    delay_s: float
    """Of a trip, neither in an engine nor in line for one."""
    pace: float
    """Rows that came home per second."""

    @property
    def rows_per_entry(self) -> float:
        """1 where all decode."""
        return self.num_rows / self.num_entries

    def resembles(self, other: "Situation", factor: float) -> bool:
        """Say whether their paces can be compared: the same cluster, doing much the same."""
        return self.layout == other.layout and all(
            1 / factor <= mine / theirs <= factor
            for mine, theirs in (
                (self.rows_per_entry, other.rows_per_entry),
                (self.num_active, other.num_active),
            )
        )

    def alone(self) -> Pass:
        """Give the pass of a microbatch like these if it were alone."""
        layout = self.layout
        engines_s = self.tier1_s + self.tier2_s
        if layout.shares_cores:
            handling_s = min(self.delay_s, _HANDLING_S * layout.num_layers)
            return Pass(
                engines_s=engines_s + handling_s,
                delay_s=self.delay_s - handling_s,
                busiest_s=self.tier1_s + self.attention_s + handling_s,
            )
        per_engine_s = (
            self.tier1_s / layout.num_layer_workers,
            self.attention_s / layout.num_attention_workers,
        )
        return Pass(engines_s=engines_s, delay_s=self.delay_s, busiest_s=max(per_engine_s))

    def of_size(self, num_rows: float, visit_times: VisitTimes) -> "Situation":
        """Give the same with microbatches of other size: attention grows with it, delay does not."""
        factor = num_rows / self.num_rows
        return replace(
            self,
            num_rows=num_rows,
            tier1_s=self.tier1_s * visit_times.scale(self.num_rows, num_rows),
            tier2_s=self.tier2_s * factor,
            attention_s=self.attention_s * factor,
        )


def observe(trips: Sequence[Trip], layout: Layout, num_active: int) -> Situation:
    """Sum up trips, in the order in which they came home; there must be two.

    Time in which nothing was in flight does not count.
    """
    first, *others = trips
    seconds, before_s = 0.0, first.home_s
    for trip in others:
        seconds += trip.home_s - max(before_s, trip.sent_s)
        before_s = trip.home_s
    resting_s = [
        trip.home_s - trip.sent_s - trip.tier1_s - trip.tier2_s - trip.queue_s for trip in trips
    ]
    return Situation(
        layout=layout,
        num_active=max(1, num_active),
        num_entries=fmean(trip.num_entries for trip in trips),
        num_rows=fmean(trip.num_rows for trip in trips),
        tier1_s=fmean(trip.tier1_s for trip in trips),
        tier2_s=fmean(trip.tier2_s for trip in trips),
        attention_s=fmean(trip.attention_s for trip in trips),
        delay_s=max(0.0, fmean(resting_s)),
        pace=sum(trip.num_rows for trip in others) / seconds if seconds > 0 else inf,
    )
