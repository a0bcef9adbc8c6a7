"""What a probe may ask of a process: does its loop turn, can it work, and what has it counted."""

import asyncio
import time
from collections.abc import Callable, Iterable
from http import HTTPStatus
from socketserver import ThreadingMixIn
from threading import Thread
from typing import Any, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app

from common.errors import SettingsError

_TURN_S: Final = 1.0
_STALLED_S: Final = 5.0
"""Without a turn for so long, the loop counts as stuck."""

StartResponse = Callable[..., Any]


class Health:
    """Answers probes from a thread of its own, so that a loop that is stuck is seen to be.

    `/livez`: the loop turned within the last seconds. `/readyz`: the process can work.
    `/metrics`: what it has counted.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        is_ready: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin with a loop that turned just now.

        Args:
            registry: What `/metrics` tells.
            is_ready: Asked from another thread.
            clock: Monotonic seconds.
        """
        self._metrics = make_wsgi_app(registry)
        self._is_ready = is_ready
        self._clock = clock
        self._turned_s = clock()

    async def serve(self, host: str, port: int) -> None:
        """Answer until cancelled.

        Raises:
            SettingsError: The port cannot be had.
        """
        try:
            server = make_server(host, port, self.answer, _Server, _Quiet)
        except OSError as error:
            message = f"the metrics port {host}:{port} cannot be had ({error.strerror})"
            raise SettingsError(f"{message}: set another metrics_port") from error
        thread = Thread(target=server.serve_forever, name="health", daemon=True)
        thread.start()
        try:
            while True:
                self.turn()
                await asyncio.sleep(_TURN_S)
        finally:
            server.shutdown()
            server.server_close()
            thread.join()

    def turn(self) -> None:
        """Note that the loop turns."""
        self._turned_s = self._clock()

    def answer(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        """Answer a probe; a WSGI application."""
        match environ.get("PATH_INFO"):
            case "/livez":
                return _say(start_response, self._clock() - self._turned_s < _STALLED_S, "stuck")
            case "/readyz":
                return _say(start_response, self._is_ready(), "not ready")
            case "/metrics":
                told: Iterable[bytes] = self._metrics(environ, start_response)
                return told
        start_response("404 Not Found", [("Content-Type", "text/plain")])
        return [b"ask /livez, /readyz or /metrics\n"]


def _say(start_response: StartResponse, good: bool, otherwise: str) -> Iterable[bytes]:
    status = HTTPStatus.OK if good else HTTPStatus.SERVICE_UNAVAILABLE
    start_response(f"{status.value} {status.phrase}", [("Content-Type", "text/plain")])
    return [b"ok\n" if good else f"{otherwise}\n".encode()]


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Leave out a line per probe."""
