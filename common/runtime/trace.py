"""What a process did and when, kept in memory and written as a file when it ends."""

import asyncio
import json
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from common.config import ServiceSettings
from common.errors import SettingsError, WireError
from common.ids import Endpoint, Epoch, MicrobatchId, Term
from common.messages import Hop, Message
from common.runtime.engine_thread import Launched
from common.runtime.loop import Part
from common.runtime.mailbox import Carrier
from common.runtime.process import Identity
from common.wire.codec import Header

MAX_MARKS = 200_000
"""Marks that a process keeps; then the oldest go."""

Compute = Callable[[Any], Any]


class Mark(NamedTuple):
    """Something that happened to a microbatch here, or to the worker as a whole."""

    name: str
    """The type of an engine's work, or the tag of a message that arrived."""
    microbatch_id: MicrobatchId | None
    layer: int | None
    start_s: float
    """By the machine's monotonic clock."""
    stop_s: float | None
    """None for an arrival."""


class Watched(NamedTuple):
    """A process's parts, as its mailbox and its loop want them."""

    carrier: Carrier
    compute: Compute | None
    parts: tuple[Part, ...]


def watch(
    settings: ServiceSettings, identity: Identity, carrier: Carrier, compute: Compute | None = None
) -> Watched:
    """Trace a process if its settings say so; otherwise its parts are given back as they are.

    Raises:
        SettingsError: The folder for traces cannot be made.
    """
    directory = settings.trace_directory
    if directory is None:
        return Watched(carrier, compute, ())
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        message = f"--trace-directory {directory} cannot be made: {error.strerror}"
        raise SettingsError(message) from error
    trace = Trace(directory / f"{identity.worker_id.replace('/', '-')}.json")
    return Watched(
        TracedCarrier(carrier, trace), compute and trace.around(compute), (trace.write_at_end,)
    )


class Trace:
    """Collects marks, from the loop and from the engine's thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._marks: deque[Mark] = deque(maxlen=MAX_MARKS)

    def around(self, compute: Compute) -> Compute:
        """Give a compute function that leaves a mark of each piece of work."""

        def traced(work: Any) -> Any:
            start_s = time.monotonic()
            result: Any = None
            try:
                result = compute(work)
            finally:
                if not isinstance(result, Launched):
                    self._add_work(work, start_s)
            if isinstance(result, Launched):
                return replace(result, finish=partial(self._finish, result, work, start_s))
            return result

        return traced

    def _finish(self, launched: Launched[Any], work: Any, start_s: float) -> Any:
        try:
            return launched.finish()
        finally:
            self._add_work(work, start_s)

    def _add_work(self, work: Any, start_s: float) -> None:
        # An attention worker's work is about the message that asked for it.
        self._add(type(work).__name__, getattr(work, "request", work), start_s, stop=True)

    def note_arrival(self, message: Message) -> None:
        """Leave a mark of a message, if it is about a microbatch."""
        if hasattr(message, "microbatch_id"):
            self._add(message.TAG, message, time.monotonic(), stop=False)

    async def write_at_end(self, _: object) -> None:
        """Live beside the state, and write the file when the service ends."""
        try:
            await asyncio.Event().wait()
        finally:
            self.write()

    def write(self) -> None:
        """Write the file, whole or not at all."""
        marks = list(self._marks.copy())  # the engine's thread may still add some
        # Clocks of several processes are aligned by the wall clock.
        offset_s = time.time() - time.monotonic()
        part = self._path.with_suffix(".part")
        part.write_text(json.dumps({"wall_clock_offset_s": offset_s, "marks": marks}))
        part.replace(self._path)

    def _add(self, name: str, about: Any, start_s: float, *, stop: bool) -> None:
        microbatch_id = getattr(about, "microbatch_id", None)
        layer = getattr(about, "layer", None)
        stop_s = time.monotonic() if stop else None
        self._marks.append(Mark(name, microbatch_id, layer, start_s, stop_s))


class TracedCarrier:
    """A `Carrier` whose arrivals leave marks."""

    def __init__(self, carrier: Carrier, trace: Trace) -> None:
        self._carrier = carrier
        self._trace = trace

    def open(
        self,
        on_message: Callable[[Header, Message], None],
        on_rejected: Callable[[WireError], None],
        on_lost: Callable[[Endpoint, Epoch], None],
    ) -> Endpoint:
        """Bind the inbox and give the address that it got."""

        def receive(header: Header, message: Message) -> None:
            self._trace.note_arrival(message)
            on_message(header, message)

        return self._carrier.open(receive, on_rejected, on_lost)

    def send(self, to: Hop, message: Message, *, term: Term) -> int:
        """Send without waiting; gives the bytes of its tensors."""
        return self._carrier.send(to, message, term=term)

    def close(self, linger_s: float) -> None:
        """Close all links; what was sent gets this long to leave."""
        self._carrier.close(linger_s)
