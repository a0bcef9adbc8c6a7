"""Errors in OpenAI's words."""

from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from common.errors import JobRefused


def add_error_handlers(app: FastAPI) -> None:
    """Answer every error of the API with one kind of body."""

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> JSONResponse:
        return error_response(error.status_code, str(error.detail))

    @app.exception_handler(JobRefused)
    async def job_refused(request: Request, error: JobRefused) -> JSONResponse:
        return error_response(HTTPStatus.BAD_REQUEST, str(error))

    @app.exception_handler(RequestValidationError)
    async def not_valid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        param = ".".join(str(step) for step in first["loc"][1:])
        return error_response(HTTPStatus.BAD_REQUEST, f"'{param}': {first['msg']}", param)


def error_response(status_code: int, message: str, param: str | None = None) -> JSONResponse:
    """Give an error body: what is wrong, its kind, and the parameter if it is one."""
    phrase = HTTPStatus(status_code).phrase.replace(" ", "")
    body = {"message": message, "type": f"{phrase}Error", "param": param, "code": status_code}
    return JSONResponse({"error": body}, status_code)
