"""Every test here runs on both event loops, on real sockets."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    return "asyncio", {"use_uvloop": request.param}


@pytest.fixture
def folder() -> Iterator[Path]:
    """Give a folder with a short path: a socket's may have 107 characters."""
    with tempfile.TemporaryDirectory(prefix="glinthawk-") as path:
        yield Path(path)


@pytest.fixture(params=["tcp", "ipc"])
def bind(request: pytest.FixtureRequest, folder: Path) -> str:
    """Give an address that an inbox can be bound to."""
    return "tcp://127.0.0.1:*" if request.param == "tcp" else f"ipc://{folder}/inbox"
