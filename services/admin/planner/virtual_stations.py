"""What serves in a virtual cluster: engines, one piece of work at a time, and links."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from common.policy.ordering import Depth, Order, ReadyQueue
from services.admin.planner.virtual_clock import VirtualClock

Then = Callable[..., None]


class Engine:
    """A core, or a GPU: serves by the same order as the services' queues.

    Attributes:
        busy_s: Seconds that it has worked.
    """

    def __init__(self, clock: VirtualClock, order: Order, noise: Callable[[], float]) -> None:
        """Begin with nothing to do.

        Args:
            clock: Has the time.
            order: In which waiting work is served.
            noise: Gives what a duration is multiplied by.
        """
        self.busy_s = 0.0
        self._clock = clock
        self._noise = noise
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
        self._clock.call_at(self._clock.now + seconds, self._end, then, arguments)

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
