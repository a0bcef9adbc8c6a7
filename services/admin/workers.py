"""`glinthawk workers`: who is there, and seeing one off."""

import time
from collections.abc import Mapping
from typing import Any, TextIO

from common.errors import GlinthawkError
from services.admin.client import RouterClient
from services.admin.columns import write_columns

_HEADINGS: tuple[str, ...] = (
    *("WORKER", "ROLE", "STATE", "LAYERS"),
    *("PAGES", "FREE", "HELD", "SHARED", "CACHED"),
)
_POLL_S = 0.2
_EXTRA_S = 30.0
"""For what is under way when the deadline is over."""


class DrainTooSlow(GlinthawkError):
    """The worker is still there."""


def list_workers(client: RouterClient, out: TextIO) -> None:
    """Write a line per worker: what it is, and what it has."""
    write_columns(_HEADINGS, map(_row, client.status()["workers"]), out)


def drain(client: RouterClient, worker_id: str, deadline_s: float, out: TextIO) -> None:
    """Let a worker leave, and wait until it has.

    Raises:
        DrainTooSlow: It is still there, long after the deadline.
    """
    client.drain(worker_id, deadline_s)
    out.write(f"{worker_id} leaves when its requests have ended, after {deadline_s:g} s anyway\n")
    give_up_at = time.monotonic() + deadline_s + _EXTRA_S
    while worker_id in (worker["worker_id"] for worker in client.status()["workers"]):
        if time.monotonic() > give_up_at:
            raise DrainTooSlow(
                f"{worker_id} is still there {_EXTRA_S:g} s after the deadline: look into its log, "
                "or end its process, and what it does is done elsewhere"
            )
        time.sleep(_POLL_S)
    out.write(f"{worker_id} has left\n")


def _row(worker: Mapping[str, Any]) -> tuple[str, ...]:
    state = "leaving" if worker["leaving"] else "ready" if worker["ready"] else "starting"
    layers, pool = worker["layers"], worker["pool"] or {}
    counts = [str(pool.get(name, "-")) for name in ("free", "held", "shared", "cached")]
    return (
        worker["worker_id"],
        worker["role"],
        state,
        f"[{layers[0]}, {layers[1]})" if layers else "-",
        str(worker["pages"] or "-"),
        *counts,
    )
