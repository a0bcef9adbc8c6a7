"""What each station of a cluster takes for a microbatch, and the bound on throughput that follows.

Everything here works on arrays, so that a whole space of clusters is estimated at once.
"""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np

from common.policy.profile import AttentionTimes, Profile
from services.admin.planner.circulation import Stop
from services.admin.planner.demand import Demand
from services.admin.planner.models import PlannedModel
from services.attention_worker.cache_shape import CacheShape


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """What lies between the machines."""

    bytes_per_s: float
    """Of each layer worker's link to tier 2, in either direction."""
    latency_s: float
    """One way, between the tiers."""
    slice_bytes_per_s: float
    """Between layer workers."""
    slice_latency_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Design:
    """What is stored in which form, and what travels: where the original and this system differ."""

    kv_dtype: str
    """Of keys and values in tier 2."""
    activation_bytes: int = 2
    """Per number that travels."""
    residual_travels: bool = False
    """The residual goes to tier 2 and back, as the original does it."""
    shares_tier2: bool = True
    """A node of tier 2 can work for several slices; in the original it belongs to one."""
    uses_tier1_kv: bool = False
    """What tier 1 has left beside the weights holds keys and values, too."""

    def up_bytes(self, model: PlannedModel) -> int:
        """Give the bytes of a row on its way to tier 2."""
        width = model.query_size + 2 * model.kv_size
        return self.activation_bytes * (width + self.residual_travels * model.shape.hidden_size)

    def down_bytes(self, model: PlannedModel) -> int:
        """Give the bytes of a row on its way back."""
        width = model.query_size
        return self.activation_bytes * (width + self.residual_travels * model.shape.hidden_size)

    def kv_bytes(self, model: PlannedModel, num_layers: int = 1) -> int:
        """Give the bytes of a token's keys and values."""
        return CacheShape(
            num_layers=num_layers,
            num_kv_heads=model.shape.num_kv_heads,
            head_size=model.shape.head_size,
            page_size=1,
            dtype=self.kv_dtype,
        ).bytes_per_page


@dataclass(frozen=True, slots=True, kw_only=True)
class StationTimes:
    """Seconds of each station for one microbatch; columns of equal length."""

    tier1: Any
    """One layer's visit to tier 1."""
    classify: Any
    """What the model's last layer takes beyond it."""
    up: Any
    tier2: Any
    down: Any
    slice_link: Any
    """Between two slices, once per slice; so is its latency."""
    latency_s: float
    """Between the tiers, one way."""
    slice_latency_s: float

    def one_pass(self, num_layers: int, num_slices: int) -> Any:
        """Give the seconds of a microbatch that is alone."""
        layer = self.tier1 + self.up + self.tier2 + self.down + 2 * self.latency_s
        return (
            num_layers * layer
            + self.classify
            + num_slices * (self.slice_link + self.slice_latency_s)
        )

    def work(self, slices: tuple[int, ...], num_groups: int) -> dict[str, Any]:
        """Give the seconds per pass of the busiest station of each kind."""
        last = slices[-1] * self.tier1 + self.classify
        shared: Counter[int] = Counter()
        for index, num_layers in enumerate(slices):
            shared[group_of(index, len(slices), num_groups)] += num_layers
        most = max(shared.values())
        return {
            "tier 1": np.maximum(max(slices) * self.tier1, last),
            "link up": most * self.up,
            "tier 2": most * self.tier2,
            "link down": most * self.down,
            "slice link": self.slice_link * (len(slices) > 1),
        }

    def way(self, slices: tuple[int, ...], num_groups: int) -> list[Stop]:
        """Give a microbatch's way; the columns must be single numbers.

        Layers of a single tier, which has no groups, follow each other at once: they are one stop.
        """
        two_tiers = num_groups > 0
        way = []
        for index, num_layers in enumerate(slices):
            base = _STATIONS_PER_SLICE * index
            visit = Stop(base, float(self.tier1) * (1 if two_tiers else num_layers))
            group = group_of(index, len(slices), num_groups)
            way += [visit, *self._crossing(base, group)] * num_layers if two_tiers else [visit]
            if index < len(slices) - 1:
                way.append(Stop(base + 6, float(self.slice_link)))
                way.append(Stop(base + 7, self.slice_latency_s, holds_any=True))
        last = len(way) - (6 if two_tiers else 1)
        way[last] = Stop(way[last].station, way[last].delay + float(self.classify))
        return way

    def _crossing(self, own: int, group: int) -> list[Stop]:
        """Give the way through tier 2: a group has one link, however many slices it serves."""
        shared = _STATIONS_PER_SLICE * group
        return [
            Stop(shared + 1, float(self.up)),
            Stop(shared + 2, self.latency_s, holds_any=True),
            Stop(shared + 3, float(self.tier2)),
            Stop(shared + 4, float(self.down)),
            Stop(own + 5, self.latency_s, holds_any=True),
        ]


_STATIONS_PER_SLICE = 8


def group_of(slice_index: int, num_slices: int, num_groups: int) -> int:
    """Give the group of tier 2 that serves a slice: neighbours share one, if there are fewer."""
    return slice_index * num_groups // num_slices


class Estimator:
    """The times of one kind of node per tier, for one model and one demand."""

    def __init__(
        self,
        model: PlannedModel,
        design: Design,
        demand: Demand,
        network: Network,
        profiles: tuple[Profile, Profile],
    ) -> None:
        """Take everything that is the same for all shapes of a cluster.

        Args:
            model: Its shape.
            design: What is stored and what travels.
            demand: Averages over requests.
            network: Between the machines.
            profiles: Of a node of each tier; the first must know layers, the second attention.
        """
        layer, attention = profiles[0].layer, profiles[1].attention
        assert layer is not None, "a profile of the other tier"
        assert attention is not None, "a profile of the other tier"
        self.model, self.design, self.demand, self.network = model, design, demand, network
        self._layer = layer
        self._tier1_attention = profiles[0].attention
        self._tier2_attention = attention
        self._points = profiles[1].attention_points

    def times(self, num_nodes: Any, batch: Any, tier1_batch: Any = 0) -> StationTimes:
        """Give the stations' times.

        Args:
            num_nodes: Nodes of tier 2 per slice.
            batch: Entries of a microbatch on each of them.
            tier1_batch: Entries whose keys and values are on tier 1.
        """
        entries = num_nodes * batch
        rows_per_entry = 1 + self.demand.prompt_rows
        num_rows = (entries + tier1_batch) * rows_per_entry
        travelling = entries * rows_per_entry
        network, design, model = self.network, self.design, self.model
        layer = self._layer
        tier1 = _at(layer.rows, layer.pre_s, num_rows) + _at(layer.rows, layer.post_s, num_rows)
        if self._tier1_attention is not None:
            tier1 = tier1 + self._attend(self._tier1_attention, tier1_batch)
        return StationTimes(
            tier1=tier1,
            classify=_at(layer.rows, layer.classify_s, entries + tier1_batch),
            up=travelling * design.up_bytes(model) / network.bytes_per_s,
            tier2=self._attend(self._tier2_attention, batch),
            down=travelling * design.down_bytes(model) / network.bytes_per_s,
            slice_link=num_rows
            * (design.activation_bytes * model.shape.hidden_size / network.slice_bytes_per_s),
            latency_s=network.latency_s * bool(np.any(entries)),
            slice_latency_s=network.slice_latency_s,
        )

    def extrapolates(self, entries: int) -> bool:
        """Say whether so many entries, or their contexts, are beyond what the profiles cover."""
        num_rows = entries * (1 + self.demand.prompt_rows)
        covered = max((point.context for point in self._points), default=None)
        return num_rows > self._layer.rows[-1] or (
            covered is not None and self.demand.context_tokens > covered
        )

    def _attend(self, times: AttentionTimes, batch: Any) -> Any:
        """Give the seconds of a shard with so many entries; nothing for none."""
        demand, model = self.demand, self.model
        kv_bytes = self.design.kv_bytes(model)
        position_s = 4 * model.query_size / times.flops_per_s
        read_s = kv_bytes / times.kv_bytes_per_s
        # On average half of the last block is read in vain.
        half_block = (times.block_tokens - 1) / 2
        context = demand.context_tokens
        token_s = max((context + half_block) * read_s, context * position_s)
        chunk_s = demand.prompt_rows * (times.row_s + demand.prompt_context * position_s)
        return np.where(
            np.asarray(batch) > 0,
            times.overhead_s + batch * (times.entry_s + token_s + chunk_s),
            0.0,
        )


def _at(rows: tuple[int, ...], seconds: tuple[float, ...], num_rows: Any) -> Any:
    """Do what `LayerTimes` does, for an array of fractional rows."""
    slope = (seconds[-1] - seconds[-2]) / (rows[-1] - rows[-2])
    beyond = np.maximum(0, num_rows - np.float64(rows[-1]))
    return np.maximum(0.0, np.interp(num_rows, rows, seconds) + slope * beyond)
