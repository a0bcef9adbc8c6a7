"""The threads beside the loop: one computes, in order, and one waits for what a device computes."""

import time
from collections.abc import Callable
from contextvars import copy_context
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Thread
from typing import Any, Generic, TypeVar

from common.runtime.effects import WorkFailed

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Launched(Generic[T]):
    """Work that a device now does by itself; further work may be launched meanwhile."""

    finish: Callable[[], T]
    """Waits for the end and gives the result."""
    holds: Any = None
    """What must live until then."""


class EngineThread:
    """Runs an engine off the loop.

    The queues have no limit of their own: a state bounds what it asks for. The threads are daemons,
    so that a hung engine cannot keep a process alive.
    """

    def __init__(
        self, compute: Callable[[Any], Any], on_result: Callable[[Any, float], None]
    ) -> None:
        """Make the threads; they wait for `start`.

        Args:
            compute: Does one piece of work, on the thread; what is `Launched` goes on beside it.
            on_result: Called on a thread with what came of the work, or `WorkFailed`, and the
                seconds that it took; of overlapping pieces of work each second counts once.
        """
        self._compute = compute
        self._on_result = on_result
        self._queue: SimpleQueue[Any] = SimpleQueue()
        self._launched: SimpleQueue[tuple[Any, float, Launched[Any]] | None] = SimpleQueue()
        self._closed = False
        # The copied context gives the threads' log lines the worker and its epoch.
        self._threads = [
            Thread(target=copy_context().run, args=(serve,), name=name, daemon=True)
            for serve, name in ((self._serve, "engine"), (self._await_launched, "engine-results"))
        ]

    def start(self) -> None:
        """Begin to take work."""
        for thread in self._threads:
            thread.start()

    def submit(self, work: Any) -> None:
        """Queue a piece of work."""
        self._queue.put(work)

    def do(self, work: Any, on_result: Callable[[Any, float], None]) -> None:
        """Do a piece of work on the caller's thread; nothing else may be under way.

        Args:
            work: What is to be done.
            on_result: Called before this returns, unless a device goes on with the work by itself.
        """
        started_s = time.perf_counter()
        try:
            result = self._compute(work)
        except Exception as error:  # noqa: BLE001 - it travels to the state, which can act on it
            result = WorkFailed(work, error)
        if isinstance(result, Launched):
            self._launched.put((work, started_s, result))
        else:
            on_result(result, time.perf_counter() - started_s)

    def close(self, timeout_s: float) -> bool:
        """Drop queued work and wait for what is under way.

        Returns:
            Whether the threads have ended in time.
        """
        self._closed = True
        self._queue.put(None)
        give_up_s = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, give_up_s - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _serve(self) -> None:
        while True:
            work = self._queue.get()
            if self._closed:
                self._launched.put(None)
                return
            self.do(work, self._on_result)

    def _await_launched(self) -> None:
        last_end_s = 0.0
        while (item := self._launched.get()) is not None:
            work, started_s, launched = item
            try:
                result = launched.finish()
            except Exception as error:  # noqa: BLE001 - see above
                result = WorkFailed(work, error)
            end_s = time.perf_counter()
            self._on_result(result, end_s - max(started_s, last_end_s))
            last_end_s = end_s
            del item, launched  # what it holds is as large as a microbatch
