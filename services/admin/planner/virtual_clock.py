"""Time that passes from one event to the next."""

from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any


class VirtualClock:
    """Calls back at virtual times; equal times in the order of asking.

    Attributes:
        now: Seconds since the start.
        num_events: Callbacks so far.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self.num_events = 0
        self._events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._num_asked = 0

    def call_at(self, at_s: float, callback: Callable[..., None], *arguments: Any) -> None:
        """Call back then."""
        heappush(self._events, (at_s, self._num_asked, callback, arguments))
        self._num_asked += 1

    def run(self, wanted: Callable[[], bool], max_s: float) -> bool:
        """Let events happen for as long as wanted.

        Returns:
            Whether nothing was left to happen, or the next event lay beyond `max_s`.
        """
        events = self._events
        while wanted():
            if not events or events[0][0] > max_s:
                return True
            self.now, _, callback, arguments = heappop(events)
            self.num_events += 1
            callback(*arguments)
        return False
