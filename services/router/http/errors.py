"""Errors in OpenAI's words."""

import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from common.errors import JobRefused, LineRefused, StoreFull
from services.router.calls import TooManyCalls
from services.router.drains import DrainRefused
from services.router.http.objects import ErrorBody
from services.router.text.results import error_object

RETRY_AFTER_S = 1
"""What clients are told that come when there is no room: a call ends within seconds."""


def add_error_handlers(app: FastAPI) -> None:
    """Answer every error of the API with one kind of body."""

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> JSONResponse:
        code = re.sub(r"\W+", "_", HTTPStatus(error.status_code).phrase).lower()
        return error_response(
            error.status_code, str(error.detail), code=code, headers=error.headers
        )

    @app.exception_handler(JobRefused)
    async def job_refused(request: Request, error: JobRefused) -> JSONResponse:
        return error_response(HTTPStatus.BAD_REQUEST, str(error))

    @app.exception_handler(LineRefused)
    async def call_refused(request: Request, error: LineRefused) -> JSONResponse:
        status_code = 404 if error.code == "model_not_found" else 400
        return error_response(status_code, str(error), error.param, error.code)

    @app.exception_handler(TooManyCalls)
    async def too_many_calls(request: Request, error: TooManyCalls) -> JSONResponse:
        return error_response(
            HTTPStatus.TOO_MANY_REQUESTS, str(error), code="queue_full", headers=retry_headers()
        )

    @app.exception_handler(DrainRefused)
    async def drain_refused(request: Request, error: DrainRefused) -> JSONResponse:
        return error_response(HTTPStatus.CONFLICT, str(error), code="worker_needed")

    @app.exception_handler(StoreFull)
    async def store_full(request: Request, error: StoreFull) -> JSONResponse:
        return error_response(HTTPStatus.INSUFFICIENT_STORAGE, str(error))

    @app.exception_handler(RequestValidationError)
    async def not_valid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        param = ".".join(str(step) for step in first["loc"][1:])
        return error_response(HTTPStatus.BAD_REQUEST, f"'{param}': {first['msg']}", param)


def retry_headers() -> dict[str, str]:
    """Give the headers that tell a client to come again."""
    return {"retry-after": str(RETRY_AFTER_S)}


def error_response(
    status_code: int,
    message: str,
    param: str | None = None,
    code: str | None = "invalid_request",
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """Give an error body: what is wrong, its kind, and the parameter if it is one."""
    error = error_object(status_code, message, code, param)
    return JSONResponse({"error": error}, status_code, headers)


def documented(*status_codes: int) -> dict[int | str, dict[str, Any]]:
    """Give the error answers of a path, for the API's own document."""
    return {
        code: {"model": ErrorBody, "description": HTTPStatus(code).phrase} for code in status_codes
    }
