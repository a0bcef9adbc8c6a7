"""The HTTP API, put together. Its paths translate; the desk, the calls and the cluster know."""

from fastapi import FastAPI

from services.router.calls import Calls
from services.router.http.batches import batch_routes
from services.router.http.dashboard import dashboard_routes
from services.router.http.document import add_document
from services.router.http.errors import add_error_handlers, documented
from services.router.http.files import file_routes
from services.router.http.generation import generation_routes
from services.router.http.jobs import job_routes
from services.router.http.operations import model_routes, operation_routes
from services.router.http.protocols import Cluster, Desk
from services.router.http.workers import worker_routes
from services.router.metrics import RouterMetrics
from services.router.text.bodies import ChatBody, CompletionBody


def create_app(desk: Desk, calls: Calls, cluster: Cluster, metrics: RouterMetrics) -> FastAPI:
    """Make the API; `/openapi.json` describes it. Pages that show it would load foreign scripts."""
    app = FastAPI(
        title="Glinthawk",
        version="0.1.0",
        docs_url=None,
        redoc_url=None,
        responses=documented(401, 403, 413),  # of the guard before it
    )
    add_error_handlers(app)
    app.include_router(generation_routes(calls, cluster, metrics))
    app.include_router(model_routes(cluster))
    app.include_router(file_routes(desk))
    app.include_router(batch_routes(desk))
    app.include_router(job_routes(desk))
    app.include_router(operation_routes(desk, cluster, metrics))
    app.include_router(worker_routes(cluster))
    app.include_router(dashboard_routes())
    add_document(app, (CompletionBody, ChatBody))
    return app
