"""The API's own document (OpenAPI): what FastAPI knows, and the bodies that it does not read."""

from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel

_REFERENCE: Final = "#/components/schemas/{model}"


def takes(body: type[BaseModel]) -> dict[str, Any]:
    """Say of a path which body it takes, without having FastAPI read it."""
    content = {"application/json": {"schema": {"$ref": _REFERENCE.format(model=body.__name__)}}}
    return {"openapi_extra": {"requestBody": {"content": content, "required": True}}}


def add_document(app: FastAPI, bodies: tuple[type[BaseModel], ...]) -> None:
    """Have the app describe itself, bodies included."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            made = get_openapi(title=app.title, version=app.version, routes=app.routes)
            schemas = made["components"]["schemas"]
            for body in bodies:
                schema = body.model_json_schema(ref_template=_REFERENCE)
                schemas |= schema.pop("$defs", {})
                schemas[body.__name__] = schema
            for path in made["paths"].values():
                for operation in path.values():
                    operation["responses"].pop("422", None)  # here it is a 400
            app.openapi_schema = made
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign] # FastAPI's own way
