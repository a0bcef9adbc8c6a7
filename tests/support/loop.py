"""A service loop around a state whose answers a test writes down."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from common.ids import Endpoint
from common.runtime.effects import Stop
from common.runtime.loop import ServiceLoop


class ScriptedState:
    """Answers each event by its type, and keeps what it was told."""

    def __init__(self, start: list[Any], answers: dict[type, Callable[[Any], list[Any]]]) -> None:
        self.endpoint: Endpoint | None = None
        self.events: list[Any] = []
        self._start = start
        self._answers = answers
        self._told = asyncio.Event()

    def at(self, endpoint: Endpoint) -> "ScriptedState":
        self.endpoint = endpoint
        return self

    def start(self, now: float) -> list[Any]:
        return self._start

    def handle(self, event: Any, now: float) -> list[Any]:
        self.events.append(event)
        self._told.set()
        answer = self._answers.get(type(event))
        return answer(event) if answer else []

    async def told(self, num_events: int) -> list[Any]:
        """Wait until the state was told so much."""
        async with asyncio.timeout(5):
            while len(self.events) < num_events:
                self._told.clear()
                await self._told.wait()
        return self.events


class EndNow:
    """An event at which every scripted loop ends."""


@asynccontextmanager
async def running(service: ServiceLoop) -> AsyncIterator[asyncio.Task[int]]:
    """Let a service run inside the block; it is stopped at the block's end if it still runs."""
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(service.run())
        await asyncio.sleep(0)
        yield task
        if not task.done():
            service.post(EndNow())


END_NOW: dict[type, Callable[[Any], list[Any]]] = {EndNow: lambda _: [Stop("the test is over")]}
