"""`glinthawk top`: what a running cluster is doing, a second at a time."""

import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from services.admin.client import RouterClient

_INTERVAL_S = 1.0

Status = Mapping[str, Any]
"""What `/admin/status` gives."""


@dataclass(frozen=True, slots=True)
class Sample:
    """The cluster at one moment."""

    status: Status
    at_s: float


def top(client: RouterClient, out: TextIO) -> None:
    """Show the cluster until Ctrl-C; where nobody watches, show it once, in plain text.

    Raises:
        GlinthawkError: No router answers.
    """
    console = Console(file=out)
    before = Sample(client.status(), time.monotonic())
    time.sleep(_INTERVAL_S)
    if not console.is_terminal:
        console.print(draw(before, Sample(client.status(), time.monotonic())))
        return
    with (
        suppress(KeyboardInterrupt),
        Live(console=console, screen=True, auto_refresh=False) as live,
    ):
        while True:
            now = Sample(client.status(), time.monotonic())
            live.update(draw(before, now), refresh=True)
            before = now
            time.sleep(_INTERVAL_S)


def draw(before: Sample, now: Sample) -> Group:
    """Draw what happened between two samples."""
    return Group(_summary(before, now), _workers(before, now))


def _summary(before: Sample, now: Sample) -> Text:
    status, seconds = now.status, max(now.at_s - before.at_s, 1e-9)
    then, totals = before.status["totals"], status["totals"]
    rate = (totals["generated_tokens"] - then["generated_tokens"]) / seconds
    requests, in_flight = status["requests"], status["in_flight"]
    state = "ready" if status["ready"] else "waiting for " + ", ".join(status["missing"])
    running = sum(requests[name] for name in ("ready", "in_flight", "starving"))
    waiting = sum(requests[name] for name in ("waiting", "following", "reserving"))
    return Text(
        f"{status['model']}: {state}\n"
        f"{rate:,.0f} tokens/s · {in_flight['now']} of {in_flight['limit']} microbatches in flight"
        f" · bubbles {_bubbles(then, totals)}\n"
        f"{running:,} requests running, {waiting:,} waiting · {totals['lines']:,} lines done"
        f" · {totals['failed_microbatches']:,} microbatches failed\n"
    )


def _bubbles(then: Mapping[str, float], now: Mapping[str, float]) -> str:
    """Give the share of the microbatches' time in which nobody computed for them."""
    tier1, tier2, wait, queue = (
        now[name] - then[name] for name in ("tier1_s", "tier2_s", "wait_s", "queue_s")
    )
    spent = tier1 + wait + queue
    return f"{(wait - min(tier2, wait) + queue) / spent:.0%}" if spent > 0 else "-"


def _workers(before: Sample, now: Sample) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("worker")
    table.add_column("does")
    for name in ("busy", "visits/s", "pages held", "cached", "free"):
        table.add_column(name, justify="right")
    known = {worker["epoch"]: worker for worker in before.status["workers"]}
    seconds = max(now.at_s - before.at_s, 1e-9)
    for worker in sorted(now.status["workers"], key=lambda each: (each["role"], each["worker_id"])):
        then = known.get(worker["epoch"], worker)
        busy = min((worker["busy_s"] - then["busy_s"]) / seconds, 1.0)
        visits = (worker["visits"] - then["visits"]) / seconds
        table.add_row(
            worker["worker_id"], _does(worker), f"{busy:.0%}", f"{visits:,.0f}", *_pages(worker)
        )
    return table


def _does(worker: Mapping[str, Any]) -> str:
    if not worker["ready"]:
        return "not ready"
    if worker["layers"]:
        start, stop = worker["layers"]
        return f"layers {start} to {stop - 1}"
    return str(worker["role"]).replace("_", " ")


def _pages(worker: Mapping[str, Any]) -> tuple[str, str, str]:
    pool = worker.get("pool")
    if not pool:
        return ("", "", "")
    return (f"{pool['held']:,}", f"{pool['cached']:,}", f"{pool['free']:,}")
