"""What an operator asks: health, the model, the cluster, and the results of a running job."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel

from services.router.http.errors import documented
from services.router.http.files import JSONL, LINES_PER_READ, jsonl
from services.router.http.objects import Model, ModelList
from services.router.http.paging import found
from services.router.http.protocols import Cluster, Desk
from services.router.metrics import RouterMetrics


class Alive(BaseModel):
    """The router's loop turns."""

    status: str = "alive"


class Steps(BaseModel):
    """The microbatches that came home last, oldest first."""

    steps: list[dict[str, Any]]


class Ready(BaseModel):
    """Whether the cluster can serve."""

    status: str
    missing: list[str] = []


def operation_routes(desk: Desk, cluster: Cluster, metrics: RouterMetrics) -> APIRouter:
    """Make the paths under `/admin` and those of health."""
    router = APIRouter(tags=["Operations"])

    @router.get(
        "/admin/jobs/{job_id}/results",
        response_class=Response,
        responses={
            200: {"content": {JSONL: {"schema": {"type": "string"}}}},
            **documented(400, 404),
        },
    )
    async def results(
        job_id: str,
        after: Annotated[int, Query(ge=0, lt=2**63)] = 0,
        limit: Annotated[int, Query(ge=1, le=LINES_PER_READ)] = LINES_PER_READ,
    ) -> Response:
        """Give consecutive lines; `after`: those the caller has, `x-next`: then with these."""
        job = found(await desk.job(job_id), "job", job_id)
        finished = await desk.results(job.job_id, after, limit)
        lines = [text for place, (number, text) in enumerate(finished, after) if number == place]
        headers = {"x-next": str(after + len(lines))}
        return Response(jsonl(lines), headers=headers, media_type=JSONL)

    @router.get("/admin/status")
    async def status() -> dict[str, Any]:
        """Give members and counters."""
        return cluster.status()

    @router.get(
        "/metrics",
        response_class=Response,
        responses={200: {"content": {CONTENT_TYPE_LATEST: {"schema": {"type": "string"}}}}},
    )
    async def scrape() -> Response:
        """Give the router's metrics to Prometheus."""
        return Response(metrics.text(), media_type=CONTENT_TYPE_LATEST)

    @router.get("/admin/steps")
    async def steps() -> Steps:
        """Give the microbatches that came home last, and where their time went."""
        return Steps(steps=cluster.steps())

    @router.get("/livez")
    async def live() -> Alive:
        """Answer, if the router's loop turns."""
        return Alive()

    @router.get("/readyz", responses={503: {"model": Ready}})
    async def ready(response: Response) -> Ready:
        """Say whether every layer, enough attention workers and the KV manager are there."""
        missing = cluster.missing()
        response.status_code = 503 if missing else 200
        return Ready(status="waiting" if missing else "ready", missing=missing)

    return router


def model_routes(cluster: Cluster) -> APIRouter:
    """Make the paths about models."""
    router = APIRouter(prefix="/v1/models", tags=["Models"])

    def models() -> list[Model]:
        length = cluster.max_model_len()
        return [Model(id=name, max_model_len=length) for name in cluster.model_names()]

    @router.get("")
    async def show_all() -> ModelList:
        """List the model that is served."""
        return ModelList(data=models())

    @router.get("/{name:path}", responses=documented(404))
    async def show(name: str) -> Model:
        """Show a model."""
        return found(next((model for model in models() if model.id == name), None), "model", name)

    return router
