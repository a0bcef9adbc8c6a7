"""Serve the API in the router's own loop."""

import contextlib
import socket
from collections.abc import Iterator

import uvicorn
from starlette.types import ASGIApp

from common.errors import SettingsError
from common.wire.addresses import is_open_host
from services.router.config import RouterSettings


def listen(settings: RouterSettings) -> socket.socket:
    """Take the API's port before anything else is started; 0 takes a free one.

    Raises:
        SettingsError: The port cannot be had, or would let everyone in the network in.
    """
    host, port = settings.http_host, settings.http_port
    if is_open_host(host) and not (settings.api_key_file or settings.http_without_keys):
        raise SettingsError(
            f"the HTTP API on {host} would serve everyone in the network: give --api-key-file"
            " (`glinthawk keys api-key` makes it), a loopback --http-host, or --http-without-keys"
        )
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

    def __init__(self, app: ASGIApp, taken: socket.socket, settings: RouterSettings) -> None:
        """Prepare to serve.

        Raises:
            SettingsError: The certificate or its key cannot be used.
        """
        config = uvicorn.Config(
            app,
            lifespan="off",
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=2,
            ssl_certfile=settings.tls_certificate,
            ssl_keyfile=settings.tls_key,
        )
        try:
            config.load()
        except OSError as error:
            raise SettingsError(
                f"{settings.tls_certificate} and {settings.tls_key} are no certificate with its"
                f" key ({error}): give both as PEM"
            ) from None
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
