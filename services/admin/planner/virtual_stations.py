"""What serves in a virtual cluster: engines, one piece of work at a time, and links."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from common.policy.ordering import Depth, Order, ReadyQueue
from services.admin.planner.virtual_clock import VirtualClock

Then = Callable[..., None]


class Core:
    """A core that processes share: those with work get equal parts of it, in short slices."""

    def __init__(self, clock: VirtualClock) -> None:
        """Begin with nothing to do."""
        self._clock = clock
        self._left_s: dict[int, float] = {}
        """Of each piece of work under way, by its number."""
        self._ends: dict[int, tuple[Then, tuple[Any, ...]]] = {}
        self._since_s = 0.0
        self._num_changes = 0

    def run(self, seconds: float, then: Then, *arguments: Any) -> None:
        """Work for so long beside what is under way; call back when it is done."""
        self._pass_time()
        self._left_s[self._num_changes], self._ends[self._num_changes] = seconds, (then, arguments)
        self._plan_next()

    def _pass_time(self) -> None:
        share_s = (self._clock.now - self._since_s) / max(1, len(self._left_s))
        self._left_s = {each: left_s - share_s for each, left_s in self._left_s.items()}
        self._since_s = self._clock.now

    def _plan_next(self) -> None:
        self._num_changes += 1
        if self._left_s:
            first = min(self._left_s, key=self._left_s.__getitem__)
            ends_s = self._clock.now + max(0.0, self._left_s[first]) * len(self._left_s)
            self._clock.call_at(ends_s, self._end, first, self._num_changes)

    def _end(self, number: int, num_changes: int) -> None:
        if num_changes != self._num_changes:
            return  # more work has come since this end was foreseen
        self._pass_time()
        del self._left_s[number]
        then, arguments = self._ends.pop(number)
        self._plan_next()
        then(*arguments)


class Engine:
    """A process's core, or its GPU: serves by the same order as the services' queues.

    Attributes:
        busy_s: Seconds that it has worked.
    """

    def __init__(
        self,
        clock: VirtualClock,
        order: Order,
        noise: Callable[[], float],
        core: Core | None = None,
    ) -> None:
        """Begin with nothing to do.

        Args:
            clock: Has the time.
            order: In which waiting work is served.
            noise: Gives what a duration is multiplied by.
            core: That it shares with others; None is one of its own.
        """
        self.busy_s = 0.0
        self._clock = clock
        self._noise = noise
        self._core = core
        self._waiting: ReadyQueue[tuple[float, Then, tuple[Any, ...]]] = ReadyQueue(order)
        self._running = False

    def work(self, depth: Depth, seconds: float, then: Then, *arguments: Any) -> None:
        """Take work; call back when it is done."""
        if self._running:
            self._waiting.push(depth, (seconds, then, arguments))
        else:
            self._start(seconds, then, arguments)

    def _start(self, seconds: float, then: Then, arguments: tuple[Any, ...]) -> None:
        self._running = True
        seconds *= self._noise()
        self.busy_s += seconds
        if self._core is None:
            self._clock.call_at(self._clock.now + seconds, self._end, then, arguments)
        else:
            self._core.run(seconds, self._end, then, arguments)

    def _end(self, then: Then, arguments: tuple[Any, ...]) -> None:
        self._running = False
        then(*arguments)
        if not self._running and len(self._waiting):
            self._start(*self._waiting.pop())


@dataclass(slots=True)
class Port:
    """One machine's connection to the network: what leaves and what arrives, each in turn."""

    bytes_per_s: float
    out_free_s: float = 0.0
    in_free_s: float = 0.0


def transfer(sender: Port, receiver: Port, size_bytes: float, now: float) -> float:
    """Send bytes as soon as both ends are free; give the time when the last one has left the link.

    The receiver takes them in while they are sent, at its own speed.
    """
    begin = max(now, sender.out_free_s)
    sender.out_free_s = begin + size_bytes / sender.bytes_per_s
    arrival = max(begin, receiver.in_free_s) + size_bytes / receiver.bytes_per_s
    receiver.in_free_s = max(arrival, sender.out_free_s)
    return receiver.in_free_s
