"""`/v1/completions` and `/v1/chat/completions`."""

from typing import Any

from fastapi import APIRouter, HTTPException, Request, Response
from pydantic import BaseModel

from services.router.calls import Calls
from services.router.http.answers import CallResponse
from services.router.http.completions import ChatCompletion, TextCompletion
from services.router.http.document import takes
from services.router.http.errors import documented, retry_headers
from services.router.http.protocols import Cluster
from services.router.metrics import RouterMetrics
from services.router.text.bodies import ChatBody, CompletionBody
from services.router.text.line_parser import CHAT_URL, COMPLETIONS_URL, Url


def generation_routes(calls: Calls, cluster: Cluster, metrics: RouterMetrics) -> APIRouter:
    """Make the paths. Bodies are read by `Calls`, off the loop, as those of batch lines are."""
    router = APIRouter(tags=["Generation"], responses=documented(400, 404, 429, 500, 503))

    async def answer(request: Request, url: Url) -> Response:
        if missing := cluster.missing():
            message = f"the cluster waits for {', '.join(missing)}: try again later"
            raise HTTPException(503, message, retry_headers())
        return CallResponse(calls, await calls.open(url, await request.body()), metrics)

    @router.post(
        COMPLETIONS_URL, responses=_whole_or_streamed(TextCompletion), **takes(CompletionBody)
    )
    async def complete(request: Request) -> Response:
        """Go on with a text or with token ids."""
        return await answer(request, COMPLETIONS_URL)

    @router.post(CHAT_URL, responses=_whole_or_streamed(ChatCompletion), **takes(ChatBody))
    async def chat(request: Request) -> Response:
        """Say what comes next in a conversation."""
        return await answer(request, CHAT_URL)

    return router


def _whole_or_streamed(model: type[BaseModel]) -> dict[int | str, dict[str, Any]]:
    events: dict[str, Any] = {"text/event-stream": {}}
    return {200: {"model": model, "content": events, "description": "Whole, or with `stream`"}}
