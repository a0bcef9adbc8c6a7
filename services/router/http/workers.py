"""The cluster's workers: who is there, and seeing one off."""

from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel

from common.config import MAX_DRAIN_S
from common.ids import WorkerId
from services.router.http.errors import documented
from services.router.http.protocols import Cluster


class Workers(BaseModel):
    """All workers that are alive."""

    workers: list[dict[str, Any]]


class Draining(BaseModel):
    """A worker that leaves as soon as nothing needs it, at the latest after the deadline."""

    worker_id: str
    deadline_s: float


def worker_routes(cluster: Cluster) -> APIRouter:
    """Make the paths about workers."""
    router = APIRouter(prefix="/admin/workers", tags=["Operations"])

    @router.get("")
    async def workers() -> Workers:
        """List the workers, and what each of them has and does."""
        return Workers(workers=cluster.status()["workers"])

    @router.post("/{worker_id}/drain", status_code=202, responses=documented(400, 409))
    async def drain(
        worker_id: str, deadline_s: Annotated[float, Query(ge=0, le=MAX_DRAIN_S)] = 60.0
    ) -> Draining:
        """Let a worker leave; what has not ended after the deadline is computed elsewhere."""
        cluster.drain(WorkerId(worker_id), deadline_s)
        return Draining(worker_id=worker_id, deadline_s=deadline_s)

    return router
