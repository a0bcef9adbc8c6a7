"""What the router can tell about the cluster: for `/admin/status`, `/readyz` and `/v1/models`."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from common.ids import WorkerId
from common.messages import PoolCount
from services.router.drains import DrainRefused, DrainWorker
from services.router.membership import Worker
from services.router.page_rules import PageTotals
from services.router.requests import Standing
from services.router.scheduler import Scheduler
from services.router.state import RouterState


class Overview:
    """Reads the state; what is to change it is posted as an event."""

    def __init__(self, model: str, max_model_len: int, post: Callable[[DrainWorker], None]) -> None:
        self._model = model
        self._max_model_len = max_model_len
        self._post = post
        self._state: RouterState | None = None

    def watch(self, state: RouterState) -> None:
        """Look at this state from now on."""
        self._state = state

    def model_names(self) -> tuple[str, ...]:
        """Give the names that the model goes by."""
        return (self._model,)

    def max_model_len(self) -> int:
        """Give the tokens that a request may come to."""
        return self._max_model_len

    def missing(self) -> list[str]:
        """Say what the cluster still waits for; empty when it can serve."""
        return self._state.members.missing() if self._state else ["the router's own start"]

    def drain(self, worker_id: WorkerId, deadline_s: float) -> None:
        """Let a worker leave once its requests have ended, at the latest after the deadline.

        Raises:
            DrainRefused: It is no worker, or the cluster cannot do without it.
        """
        refusal = self._state.drains.refusal(worker_id) if self._state else "there are no workers"
        if refusal is not None:
            raise DrainRefused(refusal)
        self._post(DrainWorker(worker_id=worker_id, deadline_s=deadline_s))

    def status(self) -> dict[str, Any]:
        """Give members and counters, as JSON."""
        if self._state is None:
            return {"ready": False, "workers": []}
        members, scheduler = self._state.members, self._state.scheduler
        requests = scheduler.requests
        return {
            "ready": not members.missing(),
            "missing": members.missing(),
            "model": self._model,
            "workers": [_worker(worker) for worker in members.workers.values()],
            "requests": {standing.name.lower(): requests.num(standing) for standing in Standing},
            "in_flight": {
                "now": len(scheduler.flights.live),
                "limit": scheduler.throttle.in_flight,
            },
            **counts(scheduler),
        }

    def steps(self) -> list[dict[str, Any]]:
        """Give the microbatches that came home last, oldest first, in monotonic seconds, as JSON."""
        if self._state is None:
            return []
        return [
            {
                "microbatch_id": step.microbatch_id,
                "num_rows": step.num_rows,
                "sent_s": step.sent_s,
                "home_s": step.home_s,
                **asdict(step.times),
            }
            for step in self._state.scheduler.flights.steps
        ]


def counts(scheduler: Scheduler) -> dict[str, Any]:
    """Give what was done since the router started, as JSON."""
    return {"totals": asdict(scheduler.totals), "pages": _pages(scheduler.tenancy.totals)}


def _pages(totals: PageTotals) -> dict[str, Any]:
    hit_rate = totals.found_tokens / totals.wanted_tokens if totals.wanted_tokens else 0.0
    # `asdict` cannot copy a Counter.
    recomputed = {str(cause): count for cause, count in totals.recomputed_tokens.items()}
    return {**asdict(totals), "recomputed_tokens": recomputed, "hit_rate": hit_rate}


def _pool(count: PoolCount) -> dict[str, int]:
    return {
        "free": count.free,
        "held": count.held,
        "shared": count.shared,
        "cached": count.cached,
    }


def _worker(worker: Worker) -> dict[str, Any]:
    layers = worker.layers
    return {
        "worker_id": worker.hop.worker_id,
        "role": worker.role,
        "epoch": worker.hop.epoch,
        "endpoint": worker.hop.endpoint,
        "host": worker.host,
        "kernel_path": worker.kernel_path,
        "ready": worker.ready,
        "leaving": worker.leaving,
        "last_heard_s": worker.last_heard_s,
        "layers": [layers.start, layers.stop] if layers else None,
        "pages": worker.num_pages,
        "pool": _pool(worker.pool) if worker.pool else None,
        "tokens_per_s": worker.tokens_per_s,
        "visits": worker.progress,
        "busy_s": worker.busy_s,
        "links": {link.peer: link.sent_bytes for link in worker.links},
    }
