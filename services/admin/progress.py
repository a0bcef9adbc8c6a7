"""How far a job is, for a person who waits: a bar on a terminal, plain lines elsewhere."""

import sys
import time
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

_PLAIN_INTERVAL_S = 5.0


class JobProgress(AbstractContextManager["JobProgress"]):
    """Shows lines done, output tokens per second and the time left on stderr."""

    def __init__(self) -> None:
        self._console = Console(file=sys.stderr)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TextColumn("ETA"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task: TaskID | None = None
        self._warned = ""
        self._started_s = time.monotonic()
        self._said_s = self._started_s

    def __enter__(self) -> Self:
        """Start to show."""
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave the terminal as it was."""
        self._bar.stop()

    def say(self, text: str) -> None:
        """Say what is going on now."""
        if self._console.is_terminal:
            self._console.print(text, style="dim")
        else:
            sys.stderr.write(f"{text}\n")

    def warn(self, text: str) -> None:
        """Say what stands in the way, once until it changes."""
        if text != self._warned:
            self._warned = text
            self.say(text)

    def start(self) -> None:
        """Let the clock of rate and time left begin."""
        self._started_s = self._said_s = time.monotonic()

    def show(self, done: int, total: int, generated_tokens: int) -> None:
        """Show the figures, not too often."""
        now = time.monotonic()
        elapsed_s = max(now - self._started_s, 1e-9)
        rate = f"{generated_tokens / elapsed_s:.0f} tok/s"
        if self._task is None:
            self._task = self._bar.add_task("lines", total=total or None, rate=rate)
        self._bar.update(self._task, completed=done, total=total or None, rate=rate)
        if not self._console.is_terminal and now - self._said_s >= _PLAIN_INTERVAL_S:
            self._said_s = now
            left_s = elapsed_s / done * (total - done) if done else float("nan")
            eta = f", {left_s:.0f} s left" if done else ""
            sys.stderr.write(f"{done}/{total} lines, {rate}{eta}\n")
