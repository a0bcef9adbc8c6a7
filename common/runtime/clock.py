"""Where time comes from, so that a test can say what time it is."""

import asyncio
import time
from collections.abc import Callable
from typing import Protocol

_ROUNDING_S = 0.002
"""What uvloop rounds off a delay, and more: who looks at the clock when called must find the time come."""


class Alarm(Protocol):
    """A call that is due at some time."""

    def cancel(self) -> None:
        """Forget the call; does nothing once it was made."""
        ...


class Clock(Protocol):
    """Tells the time, and calls back when it has come."""

    def now(self) -> float:
        """Give monotonic seconds."""
        ...

    def call_at(self, at_s: float, callback: Callable[[], None]) -> Alarm:
        """Call back on the event loop at this time and never earlier; at once if it has passed."""
        ...


class MonotonicClock:
    """The machine's own clock, and the timers of the running event loop."""

    def now(self) -> float:
        """Give monotonic seconds."""
        return time.monotonic()

    def call_at(self, at_s: float, callback: Callable[[], None]) -> Alarm:
        """Call back on the event loop at this time and never earlier; at once if it has passed."""
        # Not the loop's own call_at: uvloop's time is another clock, rounded to milliseconds.
        left_s = at_s - self.now()
        delay_s = left_s + _ROUNDING_S if left_s > 0 else 0.0
        return asyncio.get_running_loop().call_later(delay_s, callback)
