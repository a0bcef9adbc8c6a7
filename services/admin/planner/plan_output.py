"""A plan for a person, for a script, and as a figure."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.table import Table

from services.admin.planner.plan import Plan, describe, pareto_front
from services.admin.planner.search import Outcome

_NUM_ROWS = 8


def print_plan(plan: Plan, out: TextIO) -> None:
    """Write the verdict and the best clusters as tables."""
    currency = plan.wanted.hardware.currency
    console = Console(file=out, width=None if out.isatty() else 140)
    rows = {
        "Cheapest tokens, two tiers": plan.two_tiers[:_NUM_ROWS],
        "Pareto front, two tiers": pareto_front(plan.two_tiers)[:_NUM_ROWS],
        "Cheapest tokens, a single tier": plan.single_tier[: _NUM_ROWS // 2],
    }
    for title, outcomes in rows.items():
        if outcomes:
            console.print(_table(title, currency, outcomes))
    if any(each.extrapolated for each in (*plan.two_tiers, *plan.single_tier)):
        console.print("* beyond what the profiles cover")
    console.print(f"{plan.num_shapes} shapes; {plan.verdict()}", soft_wrap=True, highlight=False)


def _table(title: str, currency: str, outcomes: Any) -> Table:
    columns = ("cluster", "batch", "in flight", "tokens/s", f"{currency}/h", f"{currency}/Mtok")
    table = Table(*columns, "bottleneck", "tier 1", "tier 2", "links", title=title, box=None)
    for each in outcomes:
        links = max(each.busy["link up"], each.busy["link down"], each.busy["slice link"])
        table.add_row(
            describe(each),
            str(each.shape.entries),
            str(each.shape.in_flight),
            f"{each.tokens_per_s:.0f}" + "*" * each.extrapolated,
            f"{each.price:.2f}",
            f"{each.price_per_mtok:.3g}",
            each.bottleneck,
            *(f"{share:.0%}" for share in (each.busy["tier 1"], each.busy["tier 2"], links)),
        )
    return table


def write_plan_json(plan: Plan, out: TextIO) -> None:
    """Write everything that was simulated as one JSON object."""
    front = pareto_front(plan.two_tiers)
    content = {
        "model": plan.wanted.model.name,
        "demand": asdict(plan.wanted.demand),
        "currency": plan.wanted.hardware.currency,
        "verdict": plan.verdict(),
        "ratio": plan.ratio,
        "num_shapes": plan.num_shapes,
        "two_tiers": [{**_fields(each), "on_front": each in front} for each in plan.two_tiers],
        "single_tier": [_fields(each) for each in plan.single_tier],
    }
    out.write(json.dumps(content) + "\n")


def _fields(outcome: Outcome) -> dict[str, Any]:
    shape = outcome.shape
    return {
        **asdict(outcome),
        "tier1_nodes": shape.num_tier1,
        "tier2_nodes": shape.num_tier2,
        "entries": shape.entries,
        "bottleneck": outcome.bottleneck,
        "price_per_mtok": outcome.price_per_mtok,
    }


def plot_plan(plan: Plan, path: Path) -> None:
    """Draw tokens/s against price, as PNG or SVG by the file's name.

    Raises:
        SettingsError: matplotlib is not installed, or the file cannot be written.
    """
    from services.admin.planner.figures import Series, draw

    currency = plan.wanted.hardware.currency
    series = []
    for name, outcomes in (("two tiers", plan.two_tiers), ("a single tier", plan.single_tier)):
        front = pareto_front(outcomes)
        points = [(each.price, each.tokens_per_s) for each in outcomes]
        series += [
            Series(label=name, points=points, line=False),
            Series(label="", points=[(each.price, each.tokens_per_s) for each in front]),
        ]
    title = f"{plan.wanted.model.name}: output tokens/s against price"
    draw(path, series, title=title, x=f"{currency} per hour", y="output tokens/s")
