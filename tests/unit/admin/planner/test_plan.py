"""A plan finds the cheapest tokens, and says when a second tier is not worth it."""

import pytest

from common.errors import SettingsError
from common.policy.ranges import cut_evenly
from services.admin.planner.demand import Demand
from services.admin.planner.estimate import Design
from services.admin.planner.hardware import (
    Hardware,
    Links,
    NodeKind,
    check_profile,
    find_node,
)
from services.admin.planner.lengths import Lengths
from services.admin.planner.models import MODELS
from services.admin.planner.plan import NothingFits, Wanted, make_plan, pareto_front
from services.admin.planner.search import Shape, Space

MODEL = MODELS["llama-3-8b"]
LINKS = Links(bandwidth_gbps=25, rtt_ms=1)


def hardware(price_of_tier2: float, **tier1: object) -> Hardware:
    return Hardware(
        tier1=(NodeKind(**{"device": "t4", "price": 0.5, "max_nodes": 2} | tier1),),
        tier2=(NodeKind(device="genoa", price=price_of_tier2, max_nodes=4),),
        network=LINKS,
    )


def wanted(machines: Hardware, lengths: Lengths, **more: object) -> Wanted:
    return Wanted(
        model=MODEL,
        hardware=machines,
        demand=Demand.of_lengths([lengths]),
        kv_dtypes=("bf16",),
        max_batch=64,
        **more,
    )


def space(**more: object) -> Space:
    t4 = find_node(NodeKind(device="t4", price=0.5, max_nodes=4), 1, MODEL, "fp16")
    cpu = find_node(NodeKind(device="cpu", price=0.1, max_nodes=8), 2, MODEL, "bf16")
    fields = {
        "model": MODEL,
        "design": Design(kv_dtype="bf16"),
        "demand": Demand.of_lengths([Lengths(100, 200)]),
        "network": LINKS.network(),
        "tier1": t4,
        "tier2": cpu,
        "max_batch": 128,
    }
    return Space(**fields | more)


def test_cheap_memory_for_long_answers_pays() -> None:
    plan = make_plan(wanted(hardware(0.05), Lengths(200, 3000)))

    assert plan.ratio
    assert plan.ratio > 1.5
    assert plan.verdict().startswith("two tiers pay: ")


def test_dear_machines_for_short_answers_do_not() -> None:
    plan = make_plan(wanted(hardware(50.0), Lengths(1000, 10)))

    assert plan.verdict().startswith("don't: use a single tier")


def test_outcomes_are_listed_by_the_price_of_a_token() -> None:
    plan = make_plan(wanted(hardware(0.05), Lengths(200, 300)))

    prices = [outcome.price_per_mtok for outcome in plan.two_tiers]
    assert prices == sorted(prices)


def test_nothing_on_the_front_is_beaten() -> None:
    plan = make_plan(wanted(hardware(0.05), Lengths(200, 300)))

    front = pareto_front(plan.two_tiers)

    assert all(
        not (other.price <= each.price and other.tokens_per_s > each.tokens_per_s)
        for each in front
        for other in plan.two_tiers
    )


def test_no_cluster_is_dearer_than_allowed() -> None:
    plan = make_plan(wanted(hardware(0.05), Lengths(200, 300), max_price=1.0))

    assert all(outcome.price <= 1.0 for outcome in (*plan.two_tiers, *plan.single_tier))


def test_a_model_that_no_cluster_holds_is_refused_with_its_size() -> None:
    with pytest.raises(NothingFits, match=r"llama-3-8b has 15 GiB of weights"):
        make_plan(wanted(hardware(0.05, memory_gib=4), Lengths(200, 300)))


def test_events_come_close_to_the_bound_and_stay_below_it() -> None:
    best = max(space().candidates(), key=lambda each: each.bound_tokens_per_s / each.price)

    outcome = space().simulate(best.shape)

    assert 0.8 < outcome.tokens_per_s / outcome.bound_tokens_per_s < 1.01


def test_a_batch_beyond_the_profile_is_marked() -> None:
    shape = Shape(
        slices=cut_evenly(MODEL.num_layers, 1),
        groups=1,
        group_size=1,
        batch=5000,
        tier1_batch=0,
        in_flight=1,
    )

    assert space().simulate(shape).extrapolated


def test_residuals_that_travel_make_links_busier() -> None:
    shape = next(iter(space().candidates())).shape

    ours = space().simulate(shape)
    theirs = space(design=Design(kv_dtype="bf16", residual_travels=True)).simulate(shape)

    assert theirs.busy["link down"] > 1.5 * ours.busy["link down"]


def test_a_measured_profile_of_another_dtype_is_refused() -> None:
    node = space().tier2
    assert node
    measured = node.profile.model_copy(update={"source": "measured"})

    with pytest.raises(SettingsError, match="bf16 keys and values, not int8"):
        check_profile(measured, 2, MODEL, "int8")
