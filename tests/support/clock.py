"""A clock that stands still until a test moves it."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(eq=False)
class FakeAlarm:
    at_s: float
    callback: Callable[[], None]
    cancelled: bool = False

    def cancel(self) -> None:
        self.cancelled = True


class FakeClock:
    """Calls back inside `advance`, in the order of the times asked for."""

    def __init__(self, now: float = 1000.0) -> None:
        self._now = now
        self._alarms: list[FakeAlarm] = []

    def now(self) -> float:
        return self._now

    def call_at(self, at_s: float, callback: Callable[[], None]) -> FakeAlarm:
        alarm = FakeAlarm(at_s, callback)
        self._alarms.append(alarm)
        return alarm

    @property
    def num_alarms(self) -> int:
        """Alarms that are still to ring."""
        return sum(not alarm.cancelled for alarm in self._alarms)

    def advance(self, seconds: float) -> None:
        """Let time pass, alarms that alarms set included."""
        end_s = self._now + seconds
        while due := [alarm for alarm in self._alarms if alarm.at_s <= end_s]:
            alarm = min(due, key=lambda alarm: alarm.at_s)
            self._alarms.remove(alarm)
            if not alarm.cancelled:
                self._now = max(self._now, alarm.at_s)
                alarm.callback()
        self._now = end_s
