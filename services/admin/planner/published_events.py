"""The original's event model: six stations per slice, given by what each of them takes.

Source: the simulator of Glinthawk (arXiv:2501.11779). A slice is a layer range. Per layer a
microbatch passes computing in tier 1, the link up, its latency, tier 2, the link down, its latency.
What is left out is in docs/planning.md.
"""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from services.admin.planner.circulation import Circulation, Order, Stop
from services.admin.planner.files import Part, read_file

_Delay = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_Count = Annotated[int, Field(ge=1)]


class Delays(Part):
    """Milliseconds that each station takes."""

    tier1: _Delay
    """One layer's visit to tier 1."""
    tier1_last: _Delay
    """The same for the model's last layer, which also classifies."""
    up: _Delay
    up_latency: _Delay
    tier2: _Delay
    down: _Delay
    down_latency: _Delay

    def of_layer(self) -> tuple[tuple[float, bool], ...]:
        """Give each station's delay, and whether it is a latency, in the order of a layer."""
        return (
            (self.tier1, False),
            (self.up, False),
            (self.up_latency, True),
            (self.tier2, False),
            (self.down, False),
            (self.down_latency, True),
        )


class PublishedCluster(Part):
    """Slices, their stations, and how many microbatches circulate."""

    layers_per_slice: Annotated[tuple[_Count, ...], Field(min_length=1)]
    in_flight: _Count
    wraps: _Count = 3
    delays_ms: Delays

    def way(self) -> list[Stop]:
        """Give a microbatch's way through all layers."""
        stations = self.delays_ms.of_layer()
        way = [
            Stop(slice_index * len(stations) + place, delay, holds_any)
            for slice_index, num_layers in enumerate(self.layers_per_slice)
            for _ in range(num_layers)
            for place, (delay, holds_any) in enumerate(stations)
        ]
        last = len(way) - len(stations)
        way[last] = Stop(way[last].station, self.delays_ms.tier1_last)
        return way

    def simulate(self, order: Order = "deepest-first") -> Circulation:
        """Give the model in motion, at time zero."""
        return Circulation(self.way(), self.in_flight, order)


def read_published_cluster(path: Path) -> PublishedCluster:
    """Read a cluster of given delays.

    Raises:
        SettingsError: There is none, or it is not of this form; names what is wrong.
    """
    return read_file(path, PublishedCluster, "a cluster of delays")
