"""The dashboard: one page that asks this API once a second. It loads nothing from elsewhere."""

from pathlib import Path
from typing import Final

from fastapi import APIRouter, Response

_FOLDER: Final = Path(__file__).parent
_HEADERS: Final = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'unsafe-inline'; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "cache-control": "no-cache",
    "x-content-type-options": "nosniff",
}


def dashboard_routes() -> APIRouter:
    """Make the paths of the page and of its script."""
    router = APIRouter(include_in_schema=False)
    page = (_FOLDER / "dashboard.html").read_text()
    script = (_FOLDER / "dashboard.js").read_text()

    @router.get("/dashboard")
    async def show_page() -> Response:
        return Response(page, headers=_HEADERS, media_type="text/html")

    @router.get("/dashboard.js")
    async def show_script() -> Response:
        return Response(script, headers=_HEADERS, media_type="text/javascript")

    return router
