"""What tests of whole clusters have: a temporary folder that must be empty in the end."""

import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.processes import processes_of, start


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


@pytest.fixture
def launch(temporary: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start `glinthawk` commands, which end with the test if they have not before."""
    with ExitStack() as stack:

        def start_until_the_end(*words: object) -> subprocess.Popen[str]:
            process = stack.enter_context(start(temporary, *words))
            stack.callback(process.kill)
            return process

        yield start_until_the_end
