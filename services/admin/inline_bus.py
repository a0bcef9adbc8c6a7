"""The bus of a cluster in one process: what `common.wire` and the clock are to real ones."""

import time
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from heapq import heappop, heappush
from typing import Any, Final

from common.errors import GlinthawkError, WireError
from common.ids import Endpoint, Epoch, Term, WorkerId
from common.messages import Hop, Message
from common.runtime.clock import Alarm
from common.runtime.effects import (
    CancelTimer,
    Note,
    Run,
    Send,
    SetTimer,
    State,
    Stop,
    TimerFired,
    WorkFailed,
)
from common.runtime.mailbox import Mailbox
from common.wire.codec import Frame, Header, decode, encode
from common.wire.limits import WireLimits

MESSAGE_S: Final = 0.0001
"""Virtual seconds that a message is under way."""

RECONNECT_S: Final = 0.05
"""Virtual seconds until a link tries again to reach somebody."""

WORK_S: Final = 0.001
"""Virtual seconds that a piece of work takes an engine."""

Life = tuple[Endpoint, Epoch]
"""Of a process: its address may be the next one's."""

Fate = Callable[[WorkerId, WorkerId, Message], Sequence[float]]
"""Decides about each message, given its sender and its receiver: after how many seconds a copy of
it arrives. None is a message lost, two are one doubled."""


def arrives(sender: WorkerId, receiver: WorkerId, message: Message) -> Sequence[float]:
    """Let every message arrive once, and in order."""
    return (MESSAGE_S,)


@dataclass(slots=True, eq=False)
class _Alarm:
    callback: Callable[[], None] | None

    def cancel(self) -> None:
        self.callback = None


class VirtualClock:
    """Time that passes only from one event to the next; equal times in the order of asking."""

    def __init__(self) -> None:
        self._now = 0.0
        self._alarms: list[tuple[float, int, _Alarm]] = []
        self._num_alarms = 0

    def now(self) -> float:
        """Give the seconds since the start."""
        return self._now

    def call_at(self, at_s: float, callback: Callable[[], None]) -> _Alarm:
        """Call back at this time, or at once if it has passed."""
        alarm = _Alarm(callback)
        heappush(self._alarms, (max(at_s, self._now), self._num_alarms, alarm))
        self._num_alarms += 1
        return alarm

    def step(self) -> None:
        """Go on to the next event, and let it happen; there must be one."""
        self._now, _, alarm = heappop(self._alarms)
        if alarm.callback:
            alarm.callback()


class InlineBus:
    """All inboxes of a cluster, the fate of what is sent to them, and the time.

    Attributes:
        fate: Decides about each message; may be changed at any time.
    """

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.fate: Fate = arrives
        self.inboxes: dict[Endpoint, Callable[[Sequence[Frame]], None]] = {}
        self.links: defaultdict[Life, dict[InlineCarrier, None]] = defaultdict(dict)
        """Who has a link to this life of a process, in a fixed order."""


class InlineCarrier:
    """One process's end of the bus: messages become frames and messages again, as on the wire."""

    def __init__(self, bus: InlineBus, here: Hop) -> None:
        self._bus = bus
        self._here = here
        self._limits = WireLimits()
        self._on_lost: Callable[[Endpoint, Epoch], None] | None = None

    def open(
        self,
        on_message: Callable[[Header, Message], None],
        on_rejected: Callable[[WireError], None],
        on_lost: Callable[[Endpoint, Epoch], None],
    ) -> Endpoint:
        """Take messages from now on; one that is none is a bug, so it is raised and not told."""
        self._on_lost = on_lost
        self._bus.inboxes[self._here.endpoint] = lambda frames: on_message(
            *decode(frames, self._limits)
        )
        return self._here.endpoint

    def send(self, to: Hop, message: Message, *, term: Term) -> int:
        """Put a message on its way; gives the bytes of its tensors."""
        header = Header(
            term=term,
            sender=self._here.worker_id,
            sender_epoch=self._here.epoch,
            receiver_epoch=to.epoch,
        )
        frames = encode(message, header)
        self._bus.links[to.endpoint, to.epoch][self] = None
        for delay_s in self._bus.fate(self._here.worker_id, to.worker_id, message):
            # Copies, as on a wire: no process sees what another does to its own memory.
            copies = [memoryview(bytearray(frame)) for frame in frames]
            at_s = self._bus.clock.now() + delay_s
            give_up_s = at_s + self._limits.connect_timeout_s
            arrive = partial(self._arrive, to, copies, give_up_s)
            self._bus.clock.call_at(at_s, arrive)
        return sum(memoryview(frame).nbytes for frame in frames[1:])

    def close(self, linger_s: float) -> None:
        """Take no more messages, and let those know who had a link to here; what was sent arrives."""
        self._bus.inboxes.pop(self._here.endpoint, None)
        for carrier in self._bus.links.pop((self._here.endpoint, self._here.epoch), {}):
            at_s = self._bus.clock.now() + MESSAGE_S
            self._bus.clock.call_at(at_s, partial(carrier.lose, self._here))

    def lose(self, peer: Hop) -> None:
        """Take note that the link to a peer is lost."""
        if self._on_lost is not None:
            self._on_lost(peer.endpoint, peer.epoch)

    def _arrive(self, to: Hop, frames: Sequence[Frame], give_up_s: float) -> None:
        """Hand a message over, or wait for somebody to be there."""
        inbox = self._bus.inboxes.get(to.endpoint)
        if inbox is not None:
            inbox(frames)
        elif self._bus.clock.now() < give_up_s:
            at_s = self._bus.clock.now() + RECONNECT_S
            self._bus.clock.call_at(at_s, partial(self._arrive, to, frames, give_up_s))
        else:
            self.lose(to)


class InlineProcess:
    """A state and its engine, run as `common.runtime.loop.ServiceLoop` runs them; it logs nothing."""

    def __init__(
        self,
        clock: VirtualClock,
        mailbox: Mailbox,
        state: State,
        *,
        compute: Callable[[Any], Any] | None = None,
        perform: Callable[[Any], None] | None = None,
        seconds: Callable[[Any], float] = lambda _: WORK_S,
    ) -> None:
        """Put the process together.

        Args:
            clock: Tells it the time.
            mailbox: Its inbox and outgoing links.
            state: Decides.
            compute: Does the work of a `Run`.
            perform: Carries out effects of the service's own.
            seconds: How much virtual time a piece of work took, given its result.
        """
        self.ended: Callable[[Stop], None] = _demand_order
        """Told when the state has ended the process; may be changed at any time."""
        self.state = state
        self.counters = mailbox.counters
        self._clock = clock
        self._mailbox = mailbox
        self._compute = compute
        self._perform = perform
        self._seconds = seconds
        self._timers: dict[Hashable, Alarm] = {}
        self._alive = True
        self._frozen = False
        self._backlog: list[Any] = []
        """What came while it was frozen."""
        self.engine_hangs = False
        """No work ends from now on."""

    def start(self) -> None:
        """Begin to live."""
        self._mailbox.open(self.tell)
        self._carry_out(self.state.start(self._clock.now()))

    def freeze(self) -> None:
        """Stand still, as after SIGSTOP: peers notice nothing but silence."""
        self._frozen = True

    def thaw(self) -> None:
        """Go on, with all that came meanwhile."""
        self._frozen = False
        backlog, self._backlog = self._backlog, []
        for event in backlog:
            self.tell(event)

    def tell(self, event: Any) -> None:
        """Let the state handle an event, and do what it wants; the dead hear nothing."""
        if self._frozen:
            self._backlog.append(event)
        elif self._alive:
            self._carry_out(self.state.handle(event, self._clock.now()))

    def kill(self) -> None:
        """End at once; what it said last still arrives."""
        self._alive = False
        self._mailbox.close(0.0)

    def _carry_out(self, effects: Iterable[Any]) -> None:
        for effect in effects:
            if self._alive:
                self._carry_out_one(effect)

    def _carry_out_one(self, effect: Any) -> None:
        match effect:
            case Send(to, message):
                self._mailbox.send(to, message)
            case Run(work):
                self._run(work)
            case SetTimer(key, at_s):
                self._cancel_timer(key)
                self._timers[key] = self._clock.call_at(at_s, partial(self._fire, key))
            case CancelTimer(key):
                self._cancel_timer(key)
            case Stop():
                self._stop(effect)
            case Note():
                pass
            case _:
                assert self._perform, f"nobody performs {effect}"
                self._perform(effect)

    def _run(self, work: Any) -> None:
        if not self.engine_hangs:
            result = self._do(work)
            at_s = self._clock.now() + self._seconds(result)
            self._clock.call_at(at_s, partial(self.tell, result))

    def _do(self, work: Any) -> Any:
        assert self._compute, "this service has no engine"
        started_s = time.perf_counter()
        try:
            return self._compute(work)
        except GlinthawkError as error:  # any other is a bug, and may end the caller
            return WorkFailed(work, error)
        finally:
            self.counters.visits += 1
            self.counters.busy_s += time.perf_counter() - started_s

    def _cancel_timer(self, key: Hashable) -> None:
        if alarm := self._timers.pop(key, None):
            alarm.cancel()

    def _fire(self, key: Hashable) -> None:
        del self._timers[key]
        self.tell(TimerFired(key))

    def _stop(self, stop: Stop) -> None:
        self.kill()
        self.ended(stop)


def _demand_order(stop: Stop) -> None:
    if stop.exit_code:
        raise GlinthawkError(stop.reason)
