"""The command line, run in this process."""

import signal
import sys
from collections.abc import Callable, Iterator

import psutil
import pytest

from services.admin.__main__ import main

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def glinthawk(monkeypatch: pytest.MonkeyPatch, capsys) -> Iterator[Command]:
    """Run the command line; give its exit code and what it wrote."""
    handler = signal.getsignal(signal.SIGTERM)

    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["glinthawk", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            main()
        code = end.value.code or 0
        assert isinstance(code, int)
        return code, *capsys.readouterr()

    yield run
    signal.signal(signal.SIGTERM, handler)


@pytest.fixture
def refuses(glinthawk: Command) -> Callable[..., str]:
    """Run a command that must be refused; give its one line."""

    def run(*words: object) -> str:
        code, out, error = glinthawk(*words)
        assert (code, out) == (2, "")
        assert error.startswith("glinthawk: ")
        assert error.count("\n") == 1
        assert psutil.Process().children() == []
        return error

    return run
