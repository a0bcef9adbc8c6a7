"""Serve the API in the router's own loop."""

import contextlib
import socket
from collections.abc import Iterator

import uvicorn
from fastapi import FastAPI

from common.errors import SettingsError


def listen(host: str, port: int) -> socket.socket:
    """Take the API's port before anything else is started; 0 takes a free one.

    Raises:
        SettingsError: The port cannot be had.
    """
    try:
        return socket.create_server((host, port), backlog=1024)
    except OSError as error:
        message = (
            f"the HTTP port {host}:{port} cannot be had ({error.strerror}): "
            "stop what uses it, or set another http_port"
        )
        raise SettingsError(message) from error


class HttpServer:
    """A server on a port that was taken before."""

    def __init__(self, app: FastAPI, taken: socket.socket) -> None:
        config = uvicorn.Config(
            app, lifespan="off", log_config=None, access_log=False, timeout_graceful_shutdown=2
        )
        self._server = _Server(config)
        self._socket = taken

    async def run(self) -> None:
        """Serve until `stop`, then answer what is under way."""
        await self._server.serve(sockets=[self._socket])

    def stop(self) -> None:
        """Take no more requests."""
        self._server.should_exit = True


class _Server(uvicorn.Server):
    """Signals are the service's own business."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
