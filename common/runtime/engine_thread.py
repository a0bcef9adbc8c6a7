"""The one thread beside the loop: it computes, one piece of work at a time, in order."""

import time
from collections.abc import Callable
from contextvars import copy_context
from queue import SimpleQueue
from threading import Thread
from typing import Any

from common.runtime.effects import WorkFailed


class EngineThread:
    """Runs an engine off the loop.

    The queue has no limit of its own: a state bounds what it asks for. The thread is a daemon, so
    that a hung engine cannot keep a process alive.
    """

    def __init__(
        self, compute: Callable[[Any], Any], on_result: Callable[[Any, float], None]
    ) -> None:
        """Make the thread; it waits for `start`.

        Args:
            compute: Does one piece of work, on the thread.
            on_result: Called on the thread with what `compute` gave, or `WorkFailed`, and the
                seconds that it took.
        """
        self._compute = compute
        self._on_result = on_result
        self._queue: SimpleQueue[Any] = SimpleQueue()
        self._closed = False
        # The copied context gives the thread's log lines the worker and its epoch.
        self._thread = Thread(
            target=copy_context().run, args=(self._serve,), name="engine", daemon=True
        )

    def start(self) -> None:
        """Begin to take work."""
        self._thread.start()

    def submit(self, work: Any) -> None:
        """Queue a piece of work."""
        self._queue.put(work)

    def close(self, timeout_s: float) -> bool:
        """Drop queued work and wait for the piece under way.

        Returns:
            Whether the thread has ended in time.
        """
        self._closed = True
        self._queue.put(None)
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _serve(self) -> None:
        while True:
            work = self._queue.get()
            if self._closed:
                return
            self._do(work)

    def _do(self, work: Any) -> None:
        started_s = time.perf_counter()
        try:
            result = self._compute(work)
        except Exception as error:  # noqa: BLE001 - it travels to the state, which can act on it
            result = WorkFailed(work, error)
        self._on_result(result, time.perf_counter() - started_s)
