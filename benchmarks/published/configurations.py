"""The clusters that the original's authors ran, and their throughput by simulation."""

import csv
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import yaml

from common.policy.profile import Profile
from services.admin.planner.circulation import Circulation, Order
from services.admin.planner.demand import Demand
from services.admin.planner.devices import DEVICES, GIB, roofline
from services.admin.planner.estimate import Design, Estimator, Network, StationTimes
from services.admin.planner.models import MODELS, PlannedModel
from services.admin.planner.published_slots import PAGED, STATIC, cut
from services.admin.planner.search import steady_interval

FOLDER = Path(__file__).parent

PUBLISHED_DESIGN = Design(kv_dtype="fp32", residual_travels=True, shares_tier2=False)
SINGLE_TIER_DESIGN = Design(kv_dtype="fp16")

_MODELS = {"llama2-70b-chat": "llama-2-70b", "llama2-7b-chat": "llama-2-7b"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Assumptions:
    """A roofline, and all that is not in the configurations."""

    values: dict[str, Any]
    roofline: dict[str, float]

    @classmethod
    def read(cls, name: str = "fixed") -> Self:
        """Read the file, with one of its rooflines."""
        values = yaml.safe_load((FOLDER / "assumptions.yaml").read_text())
        return cls(values=values, roofline=values["rooflines"][name])

    def network(self, two_tiers: bool, added_rtt_ms: float | None = None) -> Network:
        """Give the network; the original's model has no links between slices if there are two tiers."""
        given = self.values["network"]
        rtt_ms = given["inter_tier_rtt_ms"] if added_rtt_ms is None else added_rtt_ms
        bytes_per_s = given["gbps"] * 1e9 / 8
        return Network(
            bytes_per_s=bytes_per_s,
            latency_s=rtt_ms / 2000,
            slice_bytes_per_s=1e30 if two_tiers else bytes_per_s,
            slice_latency_s=0.0 if two_tiers else given["tier1_rtt_ms"] / 2000,
        )

    def profile(self, name: str, model: PlannedModel) -> Profile:
        """Give the profile of a node, `t4` or `cpu`."""
        device = replace(
            DEVICES[name],
            memory_bytes=self.values["memory_gib"][name] * GIB,
            bytes_per_s=self.roofline[f"{name}_bytes_per_s"],
            flops_per_s=self.roofline[f"{name}_flops_per_s"],
            overhead_s=self.roofline[f"{name}_overhead_s"],
        )
        return roofline(device, model, "fp32")

    def demand(self, paged: bool, max_tokens: int) -> Demand:
        """Give what prompts ask for that travel token by token."""
        return Demand.token_by_token(max_tokens, PAGED if paged else STATIC)

    def price(self, kind: str, num_tier1: int, num_tier2: int) -> float:
        """Give a cluster's price: `equipment` or `cloud`."""
        prices = self.values["prices"][kind]
        return float(num_tier1 * prices["t4"] + num_tier2 * prices["cpu"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """One of the published clusters."""

    name: str
    model: PlannedModel
    max_tokens: int
    num_slices: int
    num_tier2: int
    batch: int
    """Entries of a microbatch."""
    tier2_batch: int
    """Of them, on each node of tier 2."""
    in_flight: int
    paged: bool
    added_rtt_ms: float | None

    @property
    def group_size(self) -> int:
        """Nodes of tier 2 for each slice."""
        return self.num_tier2 // self.num_slices

    def station_times(self, assumptions: Assumptions) -> StationTimes:
        """Give what every station takes."""
        two_tiers = self.num_tier2 > 0
        profiles = [assumptions.profile(name, self.model) for name in ("t4", "cpu")]
        estimator = Estimator(
            self.model,
            PUBLISHED_DESIGN if two_tiers else SINGLE_TIER_DESIGN,
            assumptions.demand(self.paged, self.max_tokens),
            assumptions.network(two_tiers, self.added_rtt_ms),
            (profiles[0], profiles[1]),
        )
        on_tier1 = self.batch - self.group_size * self.tier2_batch
        return estimator.times(self.group_size, self.tier2_batch, on_tier1)

    def tokens_per_s(
        self, assumptions: Assumptions, order: Order = "deepest-first", settle: int = 3
    ) -> float:
        """Let its microbatches circulate, and measure after some rounds."""
        num_groups = self.num_slices if self.num_tier2 else 0
        slices = cut(self.model.num_layers, self.num_slices)
        way = self.station_times(assumptions).way(slices, num_groups)
        interval = steady_interval(Circulation(way, self.in_flight, order), settle)
        return self.in_flight * self.batch / interval


def read_configurations() -> dict[str, Configuration]:
    """Read all published configurations, by name."""
    with (FOLDER / "configs.csv").open() as file:
        return {row["config"]: _configuration(row) for row in csv.DictReader(file)}


def _configuration(row: dict[str, str]) -> Configuration:
    name, _, context = row["model"].partition("-chat")
    thousands = int(context.strip("-k") or 2)
    return Configuration(
        name=row["config"],
        model=MODELS[_MODELS[f"{name}-chat"]],
        max_tokens=1024 * thousands,
        num_slices=int(row["slices"]),
        num_tier2=int(row["tier2_nodes"]),
        batch=int(row["tier1_batch"]),
        tier2_batch=int(row["attention_batch_per_tier2_node"]),
        in_flight=int(row["in_flight"]),
        paged=row["kv"] == "paged",
        added_rtt_ms=float(row["added_latency_ms"]) if row["added_latency_ms"] else None,
    )
