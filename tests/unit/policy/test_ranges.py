"""Layers are shared out by speed, as far as memory allows."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import SettingsError
from common.policy.ranges import Node, Weights, share_layers

PLAIN = Weights(layer_bytes=100, first_bytes=0, last_bytes=0)


def node(speed: float = 1.0, memory: int = 10**6) -> Node:
    return Node(memory_bytes=memory, bytes_per_s=speed)


def slowest(counts: tuple[int, ...], weights: Weights, nodes: list[Node]) -> float:
    read = [count * weights.layer_bytes for count in counts]
    read[-1] += weights.last_bytes
    return max(size / each.bytes_per_s for size, each in zip(read, nodes, strict=True))


@pytest.mark.parametrize(
    ("speeds", "counts"), [([1, 1], (16, 16)), ([3, 1], (24, 8)), ([1, 2, 1], (8, 16, 8))]
)
def test_a_device_gets_layers_by_its_speed(speeds, counts):
    assert share_layers(32, PLAIN, [node(speed) for speed in speeds]) == counts


def test_the_classifier_counts_as_the_layers_that_it_weighs():
    weights = Weights(layer_bytes=100, first_bytes=900, last_bytes=400)

    assert share_layers(32, weights, [node(), node()]) == (18, 14)


def test_what_does_not_fit_goes_to_a_slower_device():
    assert share_layers(32, PLAIN, [node(9, memory=1000), node(1)]) == (10, 22)


def test_the_embedding_takes_memory_and_no_time():
    weights = Weights(layer_bytes=100, first_bytes=950, last_bytes=0)

    assert share_layers(8, weights, [node(memory=1100), node()]) == (1, 7)


@pytest.mark.parametrize(
    ("nodes", "reason"),
    [
        ([node()] * 33, "33 devices for 32 layers"),
        ([node(memory=1000)] * 2, "take 3200 bytes, the devices have 2000"),
        ([node(memory=10), node()], "take 3200 bytes"),
    ],
)
def test_what_cannot_be_shared_out_is_refused_with_the_figures(nodes, reason):
    with pytest.raises(SettingsError, match=reason):
        share_layers(32, PLAIN, nodes)


@given(
    num_layers=st.integers(3, 12),
    last_bytes=st.integers(0, 400),
    speeds=st.lists(st.integers(1, 9), min_size=2, max_size=3),
)
def test_no_other_shares_have_a_faster_slowest_device(num_layers, last_bytes, speeds):
    nodes = [node(speed) for speed in speeds]
    weights = Weights(layer_bytes=100, first_bytes=0, last_bytes=last_bytes)

    counts = share_layers(num_layers, weights, nodes)

    assert sum(counts) == num_layers
    best = min(slowest(each, weights, nodes) for each in all_counts(num_layers, len(nodes)))
    assert slowest(counts, weights, nodes) == pytest.approx(best)


def all_counts(total: int, num_parts: int) -> list[tuple[int, ...]]:
    if num_parts == 1:
        return [(total,)]
    return [
        (first, *rest)
        for first in range(1, total - num_parts + 2)
        for rest in all_counts(total - first, num_parts - 1)
    ]
