"""What this system adds to the original's design, one thing at a time, each cluster planned anew."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.published.configurations import (
    PUBLISHED_DESIGN,
    SINGLE_TIER_DESIGN,
    Assumptions,
)
from benchmarks.published.sections import table
from services.admin.planner.demand import Demand
from services.admin.planner.devices import GIB
from services.admin.planner.estimate import Design, Network
from services.admin.planner.figures import Series, draw
from services.admin.planner.hardware import Links, Node
from services.admin.planner.models import MODELS
from services.admin.planner.published_slots import PAGED
from services.admin.planner.search import Outcome, Space

MODEL = MODELS["llama-2-70b"]
_MAX_BATCH = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Rung:
    """A design and what its requests ask for."""

    name: str
    design: Design
    demand: Demand


def ladder(assumptions: Assumptions, max_tokens: int) -> list[Rung]:
    """Add one thing after the other to the original's design."""
    theirs = Demand.token_by_token(max_tokens, PAGED)
    chunked = theirs.in_chunks(assumptions.values["prompt_share"])
    shared = chunked.sharing_prefix(assumptions.values["shared_prefix_share"])
    stays = replace(PUBLISHED_DESIGN, residual_travels=False)
    half, quarter = (replace(stays, kv_dtype=dtype) for dtype in ("bf16", "int8"))
    filled = replace(quarter, uses_tier1_kv=True)
    return [
        Rung(name="the original", design=PUBLISHED_DESIGN, demand=theirs),
        Rung(name="+ residual stays on tier 1", design=stays, demand=theirs),
        Rung(name="+ bf16 keys and values", design=half, demand=theirs),
        Rung(name="+ int8 instead", design=quarter, demand=theirs),
        Rung(name="+ prompts in chunks", design=quarter, demand=chunked),
        Rung(name="+ half of each prompt shared", design=quarter, demand=shared),
        Rung(name="+ spare memory of tier 1 holds them, too", design=filled, demand=shared),
    ]


def additions_section(folder: Path) -> str:
    """Climb the ladder: on fixed machines, and with the machines that make a token cheapest."""
    parts, series = [], []
    for max_tokens, num_cpus in _SIZES:
        length = f"{max_tokens // 1024}K"
        rungs = ladder(Assumptions.read(), max_tokens)
        fixed = [_fixed_pair(rung, num_cpus) for rung in rungs]
        cheapest = [(_cheapest(rung), _cheapest(_on_one_tier(rung), max_cpus=0)) for rung in rungs]
        parts += [
            f"\n{length}, {_NUM_T4} T4 + {num_cpus} CPU machines:\n\n",
            _table(rungs, fixed, f"{_NUM_T4_ALONE} T4", lambda each: each.tokens_per_s),
            f"\n{length}, the machines that make a token cheapest (cloud prices):\n\n",
            _table(rungs, cheapest, "the cheapest single tier", _per_price),
        ]
        points = [
            (float(index), _per_price(two) / _per_price(cheapest[0][1]))
            for index, (two, _) in enumerate(cheapest)
        ]
        series.append(Series(label=length, points=points))
    draw(
        folder / "additions.png",
        series,
        title="Llama-2-70B: tokens per price, additions one after the other",
        x="number of additions",
        y="times the original's cheapest single tier",
    )
    return "".join(parts)


_SIZES = ((2048, 27), (16384, 144))
_NUM_T4, _NUM_T4_ALONE = 9, 16
_MAX_T4, _MAX_CPUS = 80, 640
_NUM_SIMULATED = 5


def _table(
    rungs: Sequence[Rung],
    pairs: Sequence[tuple[Outcome, Outcome]],
    single: str,
    figure: Callable[[Outcome], float],
) -> str:
    """Give a row per rung: what two tiers come to, against a single one without and with additions."""
    rows = [
        [
            rung.name,
            f"{two.shape.num_tier1} + {two.shape.num_tier2}",
            f"{two.shape.entries} × {two.shape.in_flight}",
            f"{two.tokens_per_s:.0f}",
            f"{two.price / two.tokens_per_s:.2f}",
            two.bottleneck,
            f"{figure(two) / figure(pairs[0][1]):.1f} ×",
            f"{figure(two) / figure(alone):.1f} ×",
        ]
        for rung, (two, alone) in zip(rungs, pairs, strict=True)
    ]
    header = ("design", "T4 + CPU", "batch × in flight", "tokens/s", "price per token/s")
    return table((*header, "bottleneck", f"against {single}", "with the same additions"), rows)


def _per_price(outcome: Outcome) -> float:
    return outcome.tokens_per_s / outcome.price


def _fixed_pair(rung: Rung, num_cpus: int) -> tuple[Outcome, Outcome]:
    return _best(rung, _NUM_T4, num_cpus), _best(_on_one_tier(rung), _NUM_T4_ALONE, 0)


def _cheapest(rung: Rung, max_cpus: int = _MAX_CPUS) -> Outcome:
    """Choose the machines, too."""
    space = _space(rung, _MAX_T4, max_cpus)
    ranked = sorted(space.candidates(), key=lambda each: each.price / each.bound_tokens_per_s)
    return max((space.simulate(each.shape) for each in ranked[:_NUM_SIMULATED]), key=_per_price)


def _on_one_tier(rung: Rung) -> Rung:
    return replace(rung, design=SINGLE_TIER_DESIGN)


def _best(rung: Rung, num_t4: int, num_cpus: int) -> Outcome:
    """Choose batch and microbatches for these machines."""
    space = _space(rung, num_t4, num_cpus)
    grouping = (num_t4, num_cpus // num_t4) if num_cpus else (0, 0)
    candidate = space.candidate(space.estimator(), num_t4, *grouping)
    assert candidate is not None, "these machines hold the model"
    return space.simulate(candidate.shape)


def _space(rung: Rung, max_t4: int, max_cpus: int) -> Space:
    assumptions = Assumptions.read()
    return Space(
        model=MODEL,
        design=rung.design,
        demand=rung.demand,
        network=_network(assumptions),
        tier1=_node(assumptions, "t4", max_t4),
        tier2=_node(assumptions, "cpu", max_cpus) if max_cpus else None,
        max_batch=_MAX_BATCH,
    )


def _network(assumptions: Assumptions) -> Network:
    given = assumptions.values["network"]
    return Links(
        bandwidth_gbps=given["gbps"],
        rtt_ms=given["inter_tier_rtt_ms"],
        tier1_rtt_ms=given["tier1_rtt_ms"],
    ).network()


def _node(assumptions: Assumptions, name: str, count: int) -> Node:
    return Node(
        name=name,
        profile=assumptions.profile(name, MODEL),
        memory_bytes=assumptions.values["memory_gib"][name] * GIB,
        price=assumptions.values["prices"]["cloud"][name],
        max_nodes=count,
    )


def paging_section(folder: Path) -> str:
    """Compare what prompts reserve, where all look at the same contexts: a third, or the most."""
    rows = []
    for max_tokens, num_cpus in _SIZES:
        paged = Demand.token_by_token(max_tokens, PAGED)
        static = replace(paged, held_tokens=float(max_tokens))
        for kind, design, num_t4, cpus in (
            ("two tiers", PUBLISHED_DESIGN, _NUM_T4, num_cpus),
            ("single tier", SINGLE_TIER_DESIGN, _NUM_T4_ALONE, 0),
        ):
            rates = [
                _best(Rung(name=kind, design=design, demand=demand), num_t4, cpus).tokens_per_s
                for demand in (paged, static)
            ]
            cells = [f"{rate:.0f}" for rate in rates]
            machines = f"{num_t4} T4" + f" + {cpus} CPU" * bool(cpus)
            rows.append(
                [f"{max_tokens // 1024}K, {machines}", *cells, f"{rates[0] / rates[1]:.1f} ×"]
            )
    return table(("", "paged, tokens/s", "static, tokens/s", "gain"), rows)
