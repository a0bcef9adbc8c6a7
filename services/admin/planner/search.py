"""The space of cluster shapes: a bound on the throughput of each, and events for the best of them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from common.policy.ranges import cut_evenly
from services.admin.planner.circulation import Circulation, Order
from services.admin.planner.demand import Demand
from services.admin.planner.estimate import Design, Estimator, Network
from services.admin.planner.hardware import Node
from services.admin.planner.models import PlannedModel

_SLACK = 1.5
"""More microbatches than the bound asks for, since a station does not always find one waiting. By
events, 1.15 falls up to 12 % short of the bound, 1.3 up to 2 %, and 1.5 meets it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A cluster's numbers."""

    slices: tuple[int, ...]
    """Layers of each node of tier 1."""
    groups: int
    """Of nodes of tier 2, each at work for one slice or for some; 0 is a single tier."""
    group_size: int
    """Nodes of a group, among which a microbatch is spread."""
    batch: int
    """Entries of a microbatch on each node of tier 2."""
    tier1_batch: int
    """Entries whose keys and values are on tier 1."""
    in_flight: int

    @property
    def num_tier1(self) -> int:
        """Nodes of tier 1."""
        return len(self.slices)

    @property
    def num_tier2(self) -> int:
        """Nodes of tier 2."""
        return self.groups * self.group_size

    @property
    def entries(self) -> int:
        """Of one microbatch."""
        return self.group_size * self.batch + self.tier1_batch


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A shape, its price per hour, and what it cannot exceed."""

    shape: Shape
    price: float
    bound_tokens_per_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a shape comes to, by events."""

    shape: Shape
    tier1: str
    """The kind of node; so is `tier2`, None for a single tier."""
    tier2: str | None
    kv_dtype: str
    price: float
    bound_tokens_per_s: float
    tokens_per_s: float
    time_per_token_s: float
    busy: dict[str, float]
    """Share of the time that each kind of station works, the busiest of its kind."""
    extrapolated: bool
    """Something is larger than what the profiles cover."""

    @property
    def bottleneck(self) -> str:
        """What bounds it: the busiest station, or nobody is, and everybody waits."""
        busiest = max(self.busy, key=lambda name: self.busy[name])
        return busiest if self.busy[busiest] > _BUSY else "in flight"

    @property
    def price_per_mtok(self) -> float:
        """Give the price of a million tokens."""
        return self.price / 3600 / self.tokens_per_s * 1e6


_BUSY = 0.85
_MISSED = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """All shapes of a cluster of one kind of node per tier."""

    model: PlannedModel
    design: Design
    demand: Demand
    network: Network
    tier1: Node
    tier2: Node | None
    """None is a single tier: tier 1 attends, too."""
    max_batch: int

    def estimator(self) -> Estimator:
        """Give the times of these nodes."""
        second = (self.tier2 or self.tier1).profile
        return Estimator(
            self.model, self.design, self.demand, self.network, (self.tier1.profile, second)
        )

    def candidates(self) -> Iterator[Candidate]:
        """Give for every number of nodes the batch with the highest bound."""
        estimator = self.estimator()
        for num_slices in range(1, min(self.tier1.max_nodes, self.model.num_layers) + 1):
            for groups, group_size in self._groupings(num_slices):
                candidate = self.candidate(estimator, num_slices, groups, group_size)
                if candidate is not None:
                    yield candidate

    def _groupings(self, num_slices: int) -> Iterator[tuple[int, int]]:
        """Give (groups, nodes of each): some nodes for every slice, or some slices for every node."""
        if self.tier2 is None:
            yield 0, 0
            return
        for group_size in range(1, self.tier2.max_nodes // num_slices + 1):
            yield num_slices, group_size
        if self.design.shares_tier2:
            fewer = {-(-num_slices // each) for each in range(2, num_slices + 1)}
            yield from ((groups, 1) for groups in fewer if groups <= self.tier2.max_nodes)

    def candidate(
        self, estimator: Estimator, num_slices: int, groups: int, group_size: int
    ) -> Candidate | None:
        """Choose the batch for numbers of nodes; None if the model, or no request, fits on them."""
        slices = cut_evenly(self.model.num_layers, num_slices)
        tier1_slots = self.tier1_slots(slices)
        slots = self.tier2_slots() * groups if groups else tier1_slots
        batch = np.arange(1, min(self.max_batch // max(1, group_size), slots) + 1)
        if tier1_slots < 0 or not len(batch):
            return None
        room = slots // batch
        if not groups:
            return self._best(estimator, slices, (0, 0), (np.zeros_like(batch), batch, room))
        tier1_batch = tier1_slots // room if self.design.uses_tier1_kv else np.zeros_like(room)
        return self._best(estimator, slices, (groups, group_size), (batch, tier1_batch, room))

    def tier1_slots(self, slices: Sequence[int]) -> int:
        """Count the requests that fit beside the weights; less than zero if these do not fit."""
        slots = []
        for index, num_layers in enumerate(slices):
            weights = self.model.weight_bytes(
                num_layers, embeds=index == 0, classifies=index == len(slices) - 1
            )
            room = self.tier1.memory_bytes - weights
            slots.append(room // self._request_bytes(num_layers, "fp16") if room >= 0 else -1)
        return int(min(slots))

    def tier2_slots(self) -> int:
        """Count the requests that fit on a node of tier 2, which holds all of their layers."""
        assert self.tier2 is not None
        room = self.tier2.memory_bytes
        return int(room // self._request_bytes(self.model.num_layers, self.design.kv_dtype))

    def _request_bytes(self, num_layers: int, kv_dtype: str) -> float:
        design = Design(kv_dtype=kv_dtype)
        return self.demand.held_tokens * design.kv_bytes(self.model, num_layers)

    def _best(
        self,
        estimator: Estimator,
        slices: tuple[int, ...],
        grouping: tuple[int, int],
        columns: tuple[Any, Any, Any],
    ) -> Candidate:
        """Choose among batches: columns of entries per node of tier 2, on tier 1, and the room."""
        batch, tier1_batch, room = columns
        groups, group_size = grouping
        times = estimator.times(group_size, batch, tier1_batch)
        one_pass = times.one_pass(self.model.num_layers, len(slices))
        work = [np.broadcast_to(each, batch.shape) for each in times.work(slices, groups).values()]
        busiest = np.max(work, axis=0)
        in_flight = np.minimum(room, np.ceil(_SLACK * one_pass / busiest))
        tokens = in_flight * (group_size * batch + tier1_batch) * self.demand.counted_tokens
        turns = in_flight * busiest
        # Where a pass takes about as long as everybody's turn at the busiest station, they miss each
        # other at times: with a little of the shorter one added, the batch with more slack wins.
        score = tokens / (np.maximum(one_pass, turns) + _MISSED * np.minimum(one_pass, turns))
        best = int(np.argmax(score))
        shape = Shape(
            slices=slices,
            groups=groups,
            group_size=group_size,
            batch=int(batch[best]),
            tier1_batch=int(tier1_batch[best]),
            in_flight=int(in_flight[best]),
        )
        bound = float(tokens[best] / max(one_pass[best], turns[best]))
        return Candidate(shape=shape, price=self._price(shape), bound_tokens_per_s=bound)

    def _price(self, shape: Shape) -> float:
        tier2_price = self.tier2.price if self.tier2 else 0.0
        return shape.num_tier1 * self.tier1.price + shape.num_tier2 * tier2_price

    def simulate(self, shape: Shape, order: Order = "deepest-first") -> Outcome:
        """Let a shape's microbatches circulate until intervals are steady."""
        estimator = self.estimator()
        times = estimator.times(shape.group_size, shape.batch, shape.tier1_batch)
        way = times.way(shape.slices, shape.groups)
        tokens = shape.in_flight * shape.entries * self.demand.counted_tokens
        work = times.work(shape.slices, shape.groups)
        one_pass = float(times.one_pass(self.model.num_layers, len(shape.slices)))
        turns = shape.in_flight * max(float(each) for each in work.values())
        # While microbatches still gather before the busiest station, others get ahead of it.
        bound = max(one_pass, turns)
        interval = max(bound, steady_interval(Circulation(way, shape.in_flight, order)))
        return Outcome(
            shape=shape,
            tier1=self.tier1.name,
            tier2=self.tier2.name if self.tier2 else None,
            kv_dtype=self.design.kv_dtype,
            price=self._price(shape),
            bound_tokens_per_s=tokens / bound,
            tokens_per_s=tokens / interval,
            time_per_token_s=interval,
            busy={name: shape.in_flight * float(each) / interval for name, each in work.items()},
            extrapolated=estimator.extrapolates(shape.entries),
        )


def steady_interval(circulation: Circulation, settle: int = 3, measure: int = 5) -> float:
    """Give the mean time of a round of all microbatches, once rounds are alike.

    All that were served count, not the first microbatch alone: some overtake others.

    Args:
        circulation: At time zero.
        settle: Times that the first microbatch comes round before the clock starts.
        measure: Times that it then comes round.
    """
    began = circulation.wraps(settle)[-1]
    before = circulation.num_events
    ended = circulation.wraps(measure)[-1]
    return (ended - began) * circulation.events_per_round / (circulation.num_events - before)
