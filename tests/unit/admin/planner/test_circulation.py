"""Microbatches that circulate: exactly the original's times, however stations and times coincide."""

from hypothesis import given, settings
from hypothesis import strategies as st

from services.admin.planner.circulation import Circulation, Stop
from services.admin.planner.published_events import Delays, PublishedCluster
from services.admin.planner.search import steady_interval
from tests.support.stations import published_wraps

EXAMPLE = PublishedCluster(
    layers_per_slice=(9, 9, 8),
    in_flight=27,
    delays_ms=Delays(tier1=20, tier1_last=21, up=9, up_latency=1, tier2=18, down=8, down_latency=1),
)

# Small whole numbers make many events coincide; zeros make them coincide with their causes.
DELAYS = st.one_of(
    st.builds(Delays, **dict.fromkeys(Delays.model_fields, st.integers(1, 9))),
    st.builds(
        Delays,
        **dict.fromkeys(Delays.model_fields, st.integers(1, 4))
        | dict.fromkeys(("up_latency", "down_latency"), st.integers(0, 1)),
    ),
    st.builds(Delays, **dict.fromkeys(Delays.model_fields, st.floats(0.1, 10.0))),
)
CLUSTERS = st.builds(
    PublishedCluster,
    layers_per_slice=st.lists(st.integers(1, 4), min_size=1, max_size=4).map(tuple),
    in_flight=st.integers(1, 12),
    delays_ms=DELAYS,
)


@settings(deadline=None, derandomize=True, max_examples=15)
@given(CLUSTERS)
def test_the_published_model_is_met_to_the_last_bit(cluster: PublishedCluster) -> None:
    assert cluster.simulate().wraps(3) == published_wraps(cluster, 3)


def lower_bound_ms(cluster: PublishedCluster) -> float:
    """Give the least time per token: a pass alone, or all passes at the busiest station."""
    work: dict[int, float] = {}
    way = cluster.way()
    for stop in way:
        work[stop.station] = work.get(stop.station, 0.0) + stop.delay * (not stop.holds_any)
    return max(sum(stop.delay for stop in way), cluster.in_flight * max(work.values()))


def test_the_example_comes_round_when_the_busiest_slice_lets_it() -> None:
    wraps = EXAMPLE.simulate().wraps(5)

    assert wraps == [1552.0, 6412.0, 11272.0, 16132.0, 20992.0]
    assert wraps[-1] - wraps[-2] == lower_bound_ms(EXAMPLE) == 27 * 9 * 20


@settings(deadline=None, derandomize=True, max_examples=15)
@given(CLUSTERS, st.sampled_from(["deepest-first", "first-come"]))
def test_no_order_beats_the_lower_bound(cluster: PublishedCluster, order) -> None:
    interval = steady_interval(cluster.simulate(order))

    # The first and the last of a round may be halfway round when it begins and ends.
    assert interval >= lower_bound_ms(cluster) * (1 - 1 / 5)


def test_whoever_came_first_is_served_first_if_that_is_the_order() -> None:
    way = [Stop(0, 3.0), Stop(1, 1.0, holds_any=True), Stop(0, 3.0), Stop(1, 1.0, holds_any=True)]

    first_come = Circulation(way, 3, "first-come").wraps(1)
    deepest = Circulation(way, 3, "deepest-first").wraps(1)

    assert first_come == [13.0]  # two others go before its second visit
    assert deepest == [10.0]  # it has waited for the one who was on
