"""How many layers each range has: equally many, or so many that the slowest device is at its fastest."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from common.errors import SettingsError


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """Bytes of a model's weights, as they are computed with."""

    layer_bytes: int
    """Of each layer."""
    first_bytes: int
    """Before the first layer; of it only a few rows are read."""
    last_bytes: int
    """After the last layer; all of it is read in every pass."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A device that holds a range."""

    memory_bytes: int
    """What weights may take there."""
    bytes_per_s: float
    """How fast it reads them."""


def cut_evenly(num_layers: int, num_ranges: int) -> tuple[int, ...]:
    """Give counts of layers that differ by at most one."""
    stops = [num_layers * (index + 1) // num_ranges for index in range(num_ranges)]
    return tuple(stop - start for start, stop in pairwise([0, *stops]))


def share_layers(num_layers: int, weights: Weights, nodes: Sequence[Node]) -> tuple[int, ...]:
    """Share the layers out; each device gets at least one.

    Layers go one by one to the device that then takes the least time for all of its weights, which
    comes to the smallest time of the slowest, since all layers are alike.

    Args:
        num_layers: Of the model.
        weights: Of the model.
        nodes: In the order of their ranges.

    Raises:
        SettingsError: There are more devices than layers, or they have too little memory.
    """
    if len(nodes) > num_layers:
        raise SettingsError(f"{len(nodes)} devices for {num_layers} layers: give fewer --devices")
    shares = [_Share(node) for node in nodes]
    shares[0].held_bytes += weights.first_bytes
    shares[-1].held_bytes += weights.last_bytes
    shares[-1].read_bytes += weights.last_bytes
    for number in range(num_layers):
        open_shares = [share for share in shares if share.has_room(weights.layer_bytes)]
        if number < len(shares):
            open_shares = [share for share in open_shares if share is shares[number]]
        if not open_shares:
            raise _too_little(num_layers, weights, nodes)
        min(open_shares, key=lambda share: share.seconds_with(weights.layer_bytes)).add(
            weights.layer_bytes
        )
    return tuple(share.num_layers for share in shares)


@dataclass(slots=True)
class _Share:
    node: Node
    num_layers: int = 0
    held_bytes: int = 0
    read_bytes: int = 0

    def has_room(self, layer_bytes: int) -> bool:
        return self.held_bytes + layer_bytes <= self.node.memory_bytes

    def seconds_with(self, layer_bytes: int) -> float:
        return (self.read_bytes + layer_bytes) / self.node.bytes_per_s

    def add(self, layer_bytes: int) -> None:
        self.num_layers += 1
        self.held_bytes += layer_bytes
        self.read_bytes += layer_bytes


def _too_little(num_layers: int, weights: Weights, nodes: Sequence[Node]) -> SettingsError:
    needed = num_layers * weights.layer_bytes + weights.first_bytes + weights.last_bytes
    memory = sum(node.memory_bytes for node in nodes)
    return SettingsError(
        f"the weights take {needed} bytes, the devices have {memory} for whole layers: give "
        "--quantization, or more devices"
    )
