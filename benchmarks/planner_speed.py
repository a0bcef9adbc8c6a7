"""How fast the planner is: events per second of both simulators, and seconds of a plan.

    python -m benchmarks.planner_speed

The plan is over the published space: 80 T4s, each with up to 80 CPU machines, batches to 512.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Annotated

import typer

from services.admin.planner.cluster_file import read_cluster
from services.admin.planner.demand import Demand
from services.admin.planner.hardware import Hardware, Links, NodeKind
from services.admin.planner.lengths import Lengths
from services.admin.planner.models import find_model
from services.admin.planner.plan import Wanted, make_plan
from services.admin.planner.published_events import read_published_cluster
from services.admin.planner.simulation import simulate

_EXAMPLES = Path("examples/planning")
_NUM_WRAPS = 100
_JOB = [Lengths(512, 16)] * 6912
_MODEL = "llama-2-70b"
_NUM_TIER1, _NUM_TIER2 = 80, 80


def main(runs: Annotated[int, typer.Option(min=1, help="Of each simulator.")] = 5) -> None:
    """Print a line of JSON each."""
    for name, measure in (
        ("glinthawk, events/s", published_events),
        ("services, events/s", runtime_events),
    ):
        rates = [measure() for _ in range(runs)]
        figures = {"median": round(median(rates)), "least": round(min(rates)), "n": runs}
        print(json.dumps({"what": name, **figures}), flush=True)
    print(json.dumps({"what": "plan", **timed(plan)}))


def published_events() -> float:
    """Give the events per second of the original's model."""
    cluster = read_published_cluster(_EXAMPLES / "stations.json")
    started_s = time.perf_counter()
    circulation = cluster.simulate()
    circulation.wraps(_NUM_WRAPS)
    return circulation.num_events / (time.perf_counter() - started_s)


def runtime_events() -> float:
    """Give the events per second with the services' own policies."""
    return simulate(read_cluster(_EXAMPLES / "nine-t4s.yaml"), _JOB).events_per_s


def plan() -> int:
    """Search the published space and simulate the best; give the number of shapes."""
    hardware = Hardware(
        tier1=(NodeKind(device="t4", price=0.526, max_nodes=_NUM_TIER1),),
        tier2=(NodeKind(device="cpu", price=1.008, max_nodes=_NUM_TIER1 * _NUM_TIER2),),
        network=Links(bandwidth_gbps=8, rtt_ms=1),
    )
    wanted = Wanted(
        model=find_model(_MODEL),
        hardware=hardware,
        demand=Demand.of_lengths([Lengths(1024, 1024)]),
        kv_dtypes=("bf16",),
        max_batch=512,
        max_price=None,
    )
    return make_plan(wanted).num_shapes


def timed(work: Callable[[], int]) -> dict[str, float]:
    """Give how long something takes, with what it counted."""
    started_s = time.perf_counter()
    shapes = work()
    return {"shapes": shapes, "seconds": round(time.perf_counter() - started_s, 1)}


if __name__ == "__main__":
    typer.run(main)
