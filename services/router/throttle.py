"""How many microbatches may travel now, and how large each: a setting, or the control's choice."""

from dataclasses import dataclass

from common.messages import StageTimes
from common.policy.batching import Limits, fan_out
from common.policy.in_flight import (
    Bounds,
    InFlightControl,
    microbatch_limit,
    starting_in_flight,
)
from common.policy.prefill import PrefillAttention
from common.policy.trips import Layout, Trip
from services.router.flights import Flight
from services.router.membership import Members
from services.router.page_rules import PageRules

MAX_IN_FLIGHT = 512
"""A link takes twice as many messages before it counts as lost (`WireLimits.max_queued`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """The settings that bound a step."""

    pages: PageRules
    max_entries: int
    """Entries of one microbatch (`--microbatch-entries`)."""
    max_rows: int
    """Token rows of one microbatch (`--max-num-batched-tokens`)."""
    in_flight: int | None
    """Microbatches at once; None lets the control choose."""
    prefill_attention: PrefillAttention = "auto"
    checkpoint_tokens: int = 64
    """Generated tokens after which the job store is told of a choice again."""


@dataclass(slots=True)
class Throttle:
    """Bounds what travels, by the rules, the members, and the trips that came home."""

    members: Members
    rules: Rules
    _control: InFlightControl | None = None
    """There is one from the first trip on."""

    @property
    def in_flight(self) -> int:
        """The most microbatches that travel at once now."""
        if self.rules.in_flight is not None:
            return self.rules.in_flight
        if self._control is not None:
            return self._control.in_flight
        num_ranges = len(self.members.shape.ranges)
        return starting_in_flight(num_ranges, shares_cores=self.members.shares_cores())

    def limits(self, num_active: int) -> Limits:
        """Bound the next microbatch.

        Args:
            num_active: Requests that travel, or will in a moment.
        """
        layout = self._layout()
        return Limits(
            max_entries=microbatch_limit(num_active, self.in_flight, self.rules.max_entries),
            max_rows=self.rules.max_rows,
            max_workers=fan_out(layout.num_attention_workers, layout.num_ranges),
        )

    def come_home(self, flight: Flight, times: StageTimes, num_active: int, now: float) -> None:
        """Let the control learn from a microbatch that came home."""
        layout = self._layout()
        if self.rules.in_flight is not None or not layout.is_whole:
            return
        if self._control is None:
            bounds = Bounds(
                max_in_flight=MAX_IN_FLIGHT,
                max_entries=self.rules.max_entries,
                max_rows=self.rules.max_rows,
            )
            self._control = InFlightControl(bounds, self.in_flight)
        trip = Trip(
            sent_s=flight.sent_s,
            home_s=now,
            num_entries=len(flight.requests),
            num_rows=flight.num_rows,
            tier1_s=times.tier1_s,
            tier2_s=times.tier2_s,
            attention_s=times.attention_s,
            queue_s=times.queue_s + times.attention_queue_s,
        )
        self._control.come_home(trip, layout, num_active)

    def _layout(self) -> Layout:
        members = self.members
        return Layout(
            num_layers=members.shape.attention.num_layers,
            num_ranges=len(members.shape.ranges),
            num_layer_workers=len(members.ready_workers("layer_worker")),
            num_attention_workers=len(members.ready_workers("attention_worker")),
            shares_cores=members.shares_cores(),
        )
