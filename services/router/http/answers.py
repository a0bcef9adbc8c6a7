"""The answer to a call: whole, or streamed as server-sent events."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from fastapi import Response
from pydantic_core import to_json
from starlette.types import Receive, Scope, Send

from services.router.calls import Call, Calls, News
from services.router.http.errors import error_response
from services.router.lines import LineFailed, LineFinished, TokenStreamed
from services.router.metrics import RouterMetrics
from services.router.text.pieces import Piece, PieceWriter
from services.router.text.results import error_object

_HEADERS: Final = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]
_DONE: Final = b"data: [DONE]\n\n"


class CallResponse(Response):
    """Answers a call as its tokens come, and hangs up when the client does."""

    def __init__(self, calls: Calls, call: Call, metrics: RouterMetrics) -> None:
        """Take over an open call."""
        super().__init__()
        self._calls = calls
        self._call = call
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, as ASGI wants it."""
        try:
            async with asyncio.TaskGroup() as tasks:
                answering = tasks.create_task(self._answer(scope, receive, send))
                watching = tasks.create_task(_watch(receive, answering.cancel))
                answering.add_done_callback(lambda _: watching.cancel())
        finally:
            self._calls.hang_up(self._call)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Wait for the first news before any word, so that a call that fails at once has a status."""
        news = await self._call.news()
        match news[0]:
            case TokenStreamed():
                await self._stream(news, send)
            case LineFinished() as outcome:
                body = await self._calls.answer(self._call, outcome)
                await Response(body, media_type="application/json")(scope, receive, send)
                self._metrics.call_answered(self._call)
            case LineFailed(status_code=status_code, message=message, code=code):
                await error_response(status_code, message, code=code)(scope, receive, send)

    async def _stream(self, news: Sequence[News], send: Send) -> None:
        writer = self._calls.piece_writer(self._call)
        await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
        await _send_body(send, _events(writer.first()))
        while isinstance(news[-1], TokenStreamed):
            await _send_body(send, self._written(writer, news))
            news = await self._call.news()
        await _send_body(send, self._written(writer, news) + _DONE, more=False)
        self._metrics.call_answered(self._call)

    def _written(self, writer: PieceWriter, news: Iterable[News]) -> bytes:
        for each in news:
            if isinstance(each, TokenStreamed):
                self._metrics.token_told(self._call, each.choice)
        return b"".join(_events(_pieces(writer, each)) for each in news)


async def _watch(receive: Receive, hang_up: Callable[[], object]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    hang_up()


async def _send_body(send: Send, body: bytes, *, more: bool = True) -> None:
    if body or not more:
        await send({"type": "http.response.body", "body": body, "more_body": more})


def _pieces(writer: PieceWriter, news: News) -> list[Piece]:
    match news:
        case TokenStreamed():
            return writer.token(news)
        case LineFinished():
            return writer.last(news)
        case LineFailed(status_code=status_code, message=message, code=code):
            return [{"error": error_object(status_code, message, code, None)}]


def _events(pieces: Iterable[Piece]) -> bytes:
    return b"".join(b"data: " + to_json(piece) + b"\n\n" for piece in pieces)
