"""`glinthawk plan`: the clusters worth having from a hardware list, and whether two tiers pay."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from math import inf
from typing import cast, get_args

from common.errors import GlinthawkError, SettingsError
from services.admin.planner.demand import Demand
from services.admin.planner.devices import GIB
from services.admin.planner.estimate import Design
from services.admin.planner.hardware import Hardware, KvDtype, Node, find_node
from services.admin.planner.models import PlannedModel
from services.admin.planner.search import Candidate, Outcome, Space

_NUM_SIMULATED = 50
"""Two-tier candidates that are simulated; of single tiers, a fifth."""
_PAYS = 1.05
"""Two tiers pay if they are better by so much."""


class NothingFits(GlinthawkError):
    """No cluster of the hardware list can hold the model and a request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a plan is made for."""

    model: PlannedModel
    hardware: Hardware
    demand: Demand
    kv_dtypes: tuple[KvDtype, ...]
    max_batch: int
    max_price: float | None = None
    """Of the whole cluster, per hour."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The outcomes that were simulated, cheapest token first."""

    wanted: Wanted
    two_tiers: tuple[Outcome, ...]
    single_tier: tuple[Outcome, ...]
    num_shapes: int
    """Numbers of nodes that were looked at, each with all of its batches."""

    @property
    def ratio(self) -> float | None:
        """Give how many times as many tokens two tiers give per price; None without one of both."""
        if not self.two_tiers or not self.single_tier:
            return None
        return self.single_tier[0].price_per_mtok / self.two_tiers[0].price_per_mtok

    def verdict(self) -> str:
        """Say whether two tiers pay."""
        if not self.single_tier:
            return f"two tiers: no single tier holds the model; {describe(self.two_tiers[0])}"
        single = describe(self.single_tier[0])
        if not self.two_tiers or (ratio := self.ratio) is None:
            return f"don't: use a single tier, {single}"
        compared = f"{describe(self.two_tiers[0])} against {single}"
        if ratio < _PAYS:
            return f"don't: use a single tier; two give {ratio:.2f}x per price: {compared}"
        return f"two tiers pay: {ratio:.1f}x per price: {compared}"


def parse_kv_dtypes(names: Sequence[str]) -> tuple[KvDtype, ...]:
    """Read the dtypes of keys and values.

    Raises:
        SettingsError: One is none.
    """
    known = get_args(KvDtype)
    for name in names:
        if name not in known:
            raise SettingsError(f"keys and values cannot be {name}, only {', '.join(known)}")
    return tuple(cast(KvDtype, name) for name in names)


def make_plan(wanted: Wanted) -> Plan:
    """Search, and simulate the best.

    Raises:
        SettingsError: A device or a profile cannot be used.
        NothingFits: The model is too large for all of it.
    """
    two_tiers, single_tier = _Shortlist(wanted), _Shortlist(wanted)
    for tier1_kind in wanted.hardware.tier1:
        tier1 = find_node(tier1_kind, 1, wanted.model, "fp16")
        if tier1.profile.attention is not None:
            single_tier.add(_space(wanted, tier1, None, "fp16"))
        for tier2_kind, kv_dtype in product(wanted.hardware.tier2, wanted.kv_dtypes):
            tier2 = find_node(tier2_kind, 2, wanted.model, kv_dtype)
            two_tiers.add(_space(wanted, tier1, tier2, kv_dtype))
    plan = Plan(
        wanted=wanted,
        two_tiers=two_tiers.simulate(_NUM_SIMULATED),
        single_tier=single_tier.simulate(_NUM_SIMULATED // 5),
        num_shapes=len(two_tiers) + len(single_tier),
    )
    if not plan.two_tiers and not plan.single_tier:
        weights = wanted.model.weight_bytes(wanted.model.num_layers, embeds=True, classifies=True)
        raise NothingFits(
            f"{wanted.model.name} has {weights / GIB:.0f} GiB of weights, and no cluster of this "
            f"list holds them and a request of {wanted.demand.held_tokens:.0f} tokens: allow more or "
            "larger nodes, or a higher price"
        )
    return plan


def pareto_front(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """Give those that nothing else beats at a lower or equal price, cheapest first."""
    front: list[Outcome] = []
    for each in sorted(outcomes, key=lambda each: (each.price, -each.tokens_per_s)):
        if not front or each.tokens_per_s > front[-1].tokens_per_s:
            front.append(each)
    return front


class _Shortlist:
    """Candidates of several spaces, of which the best are simulated."""

    def __init__(self, wanted: Wanted) -> None:
        self._max_price = wanted.max_price or inf
        self._found: list[tuple[Candidate, Space]] = []

    def __len__(self) -> int:
        return len(self._found)

    def add(self, space: Space) -> None:
        """Look at all shapes of a space."""
        for candidate in space.candidates():
            if candidate.price <= self._max_price:
                self._found.append((candidate, space))

    def simulate(self, count: int) -> tuple[Outcome, ...]:
        """Simulate half as many with the cheapest tokens, and half along the Pareto front."""
        cheapest = sorted(self._found, key=lambda each: _price_per_token(each[0]))
        front: list[tuple[Candidate, Space]] = []
        for each in sorted(self._found, key=lambda each: each[0].price):
            if not front or each[0].bound_tokens_per_s > front[-1][0].bound_tokens_per_s:
                front.append(each)
        half = count // 2
        step = max(1, -(-len(front) // half))
        chosen = {id(each): each for each in [*cheapest[:half], *front[::step]]}
        outcomes = [space.simulate(candidate.shape) for candidate, space in chosen.values()]
        return tuple(sorted(outcomes, key=lambda each: each.price_per_mtok))


def _price_per_token(candidate: Candidate) -> float:
    return candidate.price / candidate.bound_tokens_per_s


def _space(wanted: Wanted, tier1: Node, tier2: Node | None, kv_dtype: KvDtype) -> Space:
    return Space(
        model=wanted.model,
        design=Design(kv_dtype=kv_dtype),
        demand=wanted.demand,
        network=wanted.hardware.network.network(),
        tier1=tier1,
        tier2=tier2,
        max_batch=wanted.max_batch,
    )


def describe(outcome: Outcome) -> str:
    """Give a cluster in a few words."""
    shape = outcome.shape
    nodes = f"{shape.num_tier1} {outcome.tier1}"
    if outcome.tier2 is None:
        return f"{nodes} alone"
    return f"{nodes} + {shape.num_tier2} {outcome.tier2}, {outcome.kv_dtype} cache"
