"""The shell that every service lives in: it waits, and lets the state decide."""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Hashable
from contextlib import ExitStack
from typing import Any

from common.errors import GlinthawkError
from common.ids import Endpoint
from common.log import get_logger
from common.runtime.clock import Alarm, Clock, MonotonicClock
from common.runtime.effects import (
    CancelTimer,
    Note,
    Run,
    Send,
    SetTimer,
    State,
    Stop,
    StopRequested,
    TimerFired,
)
from common.runtime.engine_thread import EngineThread
from common.runtime.mailbox import Mailbox

log = get_logger()

EXIT_ERROR = 2
"""What the user asked for cannot be done; one line says why."""

EXIT_BUG = 70
"""The program is wrong; the log has the traceback (BSD's EX_SOFTWARE)."""

DRAIN_LINGER_S = 2.0
"""How long what was said last may take to leave an orderly process."""

ENGINE_END_S = 2.0
"""How long the piece of work under way may take to end in an orderly process."""

ENGINE_ABORT_S = 0.1
"""The same where the process ends at once: enough for an engine that rests."""

Part = Callable[["ServiceLoop"], Coroutine[Any, Any, None]]
"""Something that lives beside the state, such as an HTTP server; cancelled when the service stops."""


class ServiceLoop:
    """Brings messages, timers and results to a state, and carries out the effects it gives.

    All of it happens on one event loop; only a `Run` that is not brief leaves it, for the engine's
    thread.
    """

    def __init__(
        self,
        make_state: Callable[[Endpoint], State],
        mailbox: Mailbox,
        *,
        compute: Callable[[Any], Any] | None = None,
        perform: Callable[[Any], None] | None = None,
        parts: tuple[Part, ...] = (),
        clock: Clock | None = None,
    ) -> None:
        """Put the service together; nothing is opened before `run`.

        Args:
            make_state: Makes the state, given the address that the inbox was bound to.
            mailbox: Its inbox and outgoing links.
            compute: Does the work of a `Run` on the engine's thread; what it returns is the event
                that the state gets, None is no event.
            perform: Carries out effects of the service's own.
            parts: What lives beside the state.
            clock: Defaults to the machine's.
        """
        self._make_state = make_state
        self._mailbox = mailbox
        self._engine = EngineThread(compute, self._bring_result) if compute else None
        self._perform = perform
        self._parts = parts
        self._clock = clock or MonotonicClock()
        self._timers: dict[Hashable, Alarm] = {}
        self._state: State | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._num_stop_requests = 0
        self._end: Stop | None = None
        self._ended = asyncio.Event()
        self.engine_hangs = False
        """The engine did not end with the loop: only the end of the process will end it."""

    async def run(self) -> int:
        """Live until the state, a signal or a bug says stop.

        Returns:
            The process's exit code.

        Raises:
            GlinthawkError: The service could not start.
        """
        self._loop = asyncio.get_running_loop()
        with ExitStack() as stack:
            endpoint = self._mailbox.open(self._dispatch)
            stack.callback(self._close)
            self._state = self._make_state(endpoint)
            if self._engine:
                self._engine.start()
            log.info("listening", endpoint=endpoint)
            self._turn(self._state.start)
            await self._live()
        return self._end.exit_code if self._end else EXIT_BUG

    def post(self, event: Any) -> None:
        """Bring an event to the state, after what the event loop is doing now."""
        assert self._loop, "the service does not run yet"
        self._loop.call_soon(self._dispatch, event)

    def request_stop(self) -> None:
        """Ask the state to stop; the second time, stop without asking."""
        self._num_stop_requests += 1
        if self._num_stop_requests == 1:
            self._dispatch(StopRequested())
        else:
            self._stop(Stop("stopped at once, as asked twice", exit_code=130))

    async def _live(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            owned = [tasks.create_task(self._guard(part)) for part in self._parts]
            await self._ended.wait()
            for task in owned:
                task.cancel()

    async def _guard(self, part: Part) -> None:
        try:
            await part(self)
        except GlinthawkError as error:
            self._stop(Stop(str(error), exit_code=EXIT_ERROR))
        except Exception:
            self._stop(Stop("a part of the service failed", exit_code=EXIT_BUG))
            log.exception("a part of the service failed")

    def _dispatch(self, event: Any) -> None:
        assert self._state, "events come after the inbox was opened"
        self._turn(self._state.handle, event)

    def _turn(self, decide: Callable[..., list[Any]], *event: Any) -> None:
        """Let the state decide, and do what it wants; whatever it raises is a bug."""
        if self._end:
            return
        try:
            for effect in decide(*event, self._clock.now()):
                self._carry_out(effect)
        except Exception:
            self._stop(Stop("a bug", exit_code=EXIT_BUG))
            log.exception("the state failed", event_type=[type(each).__name__ for each in event])

    def _carry_out(self, effect: Any) -> None:
        match effect:
            case Send(to, message):
                self._mailbox.send(to, message)
            case Run():
                self._run_work(effect)
            case SetTimer(key, at_s):
                self._set_timer(key, at_s)
            case CancelTimer(key):
                self._cancel_timer(key)
            case Note(event, fields, level):
                log.log(logging.getLevelNamesMapping()[level.upper()], event, **fields)
            case Stop():
                self._stop(effect)
            case _:
                assert self._perform, f"nobody performs {effect}"
                self._perform(effect)

    def _run_work(self, effect: Run) -> None:
        assert self._engine, "this service has no engine"
        assert self._loop, "work comes after the start"
        if effect.brief:  # after this turn, which may have more to send
            self._loop.call_soon(self._engine.do, effect.work, self._take_result)
        else:
            self._engine.submit(effect.work)

    def _set_timer(self, key: Hashable, at_s: float) -> None:
        self._cancel_timer(key)
        self._timers[key] = self._clock.call_at(at_s, lambda: self._fire(key))

    def _cancel_timer(self, key: Hashable) -> None:
        if alarm := self._timers.pop(key, None):
            alarm.cancel()

    def _fire(self, key: Hashable) -> None:
        del self._timers[key]
        self._dispatch(TimerFired(key))

    def _bring_result(self, result: Any, engine_s: float) -> None:
        """Hand a result from the engine's thread to the loop."""
        assert self._loop, "work comes after the start"
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._take_result, result, engine_s)

    def _take_result(self, result: Any, engine_s: float) -> None:
        self._mailbox.counters.visits += 1
        self._mailbox.counters.busy_s += engine_s
        if result is not None:
            self._dispatch(result)

    def _stop(self, stop: Stop) -> None:
        if self._end is None:
            self._end = stop
            self._ended.set()
            say = log.error if stop.exit_code else log.info
            say("stopping", reason=stop.reason, exit_code=stop.exit_code)

    def _close(self) -> None:
        for key in list(self._timers):
            self._cancel_timer(key)
        orderly = self._end is not None and self._end.exit_code == 0
        if self._engine:
            self.engine_hangs = not self._engine.close(ENGINE_END_S if orderly else ENGINE_ABORT_S)
        self._mailbox.close(DRAIN_LINGER_S if orderly else 0.0)
