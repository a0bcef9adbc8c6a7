"""What stands before the API: the keys it asks for, and how much it lets in."""

from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

from fastapi.responses import JSONResponse
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.router.http.errors import error_response
from services.router.http.keys import ApiKeys

_OPEN: Final = ("/livez", "/readyz", "/dashboard", "/dashboard.js")
"""For probes and browsers, which have no key; they say nothing about anyone's work."""
_ADMIN: Final = ("/admin/", "/metrics")
_UPLOADS: Final = "/v1/files"


@dataclass(frozen=True, slots=True, kw_only=True)
class BodyLimits:
    """Bytes that a request may have."""

    max_upload_bytes: int
    max_body_bytes: int
    """Of every other request."""

    def of(self, path: str) -> int:
        """Give the limit of a path."""
        return self.max_upload_bytes if path == _UPLOADS else self.max_body_bytes


class Guard:
    """Lets requests through to the API that have the right key and the right size."""

    def __init__(self, app: ASGIApp, keys: ApiKeys | None, limits: BodyLimits) -> None:
        """Stand before an app.

        Args:
            app: The API.
            keys: None lets everyone in.
            limits: What is too large.
        """
        self._app = app
        self._keys = keys
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a refused request; hand the others on."""
        if scope["type"] != "http":
            return
        headers = Headers(scope=scope)
        max_bytes = self._limits.of(scope["path"])
        refusal = self._refusal(scope["path"], headers.get("authorization", ""))
        if refusal is None and _declared_bytes(headers) > max_bytes:
            refusal = error_response(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, _too_large(max_bytes))
        answer = refusal or self._app
        await answer(scope, _counted(receive, max_bytes), send)

    def _refusal(self, path: str, authorization: str) -> JSONResponse | None:
        if self._keys is None or path in _OPEN:
            return None
        kind, _, given = authorization.partition(" ")
        key = self._keys.find(given.strip()) if kind.lower() == "bearer" else None
        if key is None:
            answer = error_response(
                HTTPStatus.UNAUTHORIZED, "send a key of this API as `Authorization: Bearer KEY`"
            )
            answer.headers["www-authenticate"] = "Bearer"
            return answer
        if path.startswith(_ADMIN) and key.scope != "admin":
            return error_response(
                HTTPStatus.FORBIDDEN, f"{path} needs a key of scope admin, yours is of {key.scope}"
            )
        return None


def _counted(receive: Receive, max_bytes: int) -> Receive:
    """Take a body in, up to a limit; the app answers what is raised beyond it."""
    num_bytes = 0

    async def receive_some() -> Message:
        nonlocal num_bytes
        message = await receive()
        num_bytes += len(message.get("body", b""))
        if num_bytes > max_bytes:
            raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, _too_large(max_bytes))
        return message

    return receive_some


def _too_large(max_bytes: int) -> str:
    return f"a body of more than {max_bytes} bytes is not taken: split it, or raise the limit"


def _declared_bytes(headers: Headers) -> int:
    declared = headers.get("content-length", "0")
    return int(declared) if declared.isdecimal() else 0
