"""What tests of whole clusters have: a temporary folder that must be empty in the end."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.processes import processes_of


@pytest.fixture
def temporary() -> Iterator[Path]:
    """Give the processes a temporary folder; after the test no process and no file is left."""
    # Not pytest's own, whose long name leaves no room for the names of sockets.
    with tempfile.TemporaryDirectory(prefix="gh-") as name:
        path = Path(name)
        yield path
        left = processes_of(path)
        for process in left:
            process.kill()
        assert left == []
        assert list(path.iterdir()) == []
