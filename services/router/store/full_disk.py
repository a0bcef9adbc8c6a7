"""What to do while the job store's disk takes nothing more: wait, and lose nothing."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

from common.errors import StoreFull
from common.log import get_logger

_RETRY_S: Final = 5.0
"""Until the disk is tried again by itself; being asked to is sooner."""

log = get_logger()


class FullDisk:
    """Tries writes again and again until there is room for them."""

    def __init__(self) -> None:
        self._may_retry = asyncio.Event()
        self._waiting: dict[Callable[[], Awaitable[None]], str] = {}
        """Writes that wait for room, and what the disk said."""

    @property
    def reason(self) -> str | None:
        """Why something cannot be stored now; None = there is room."""
        return next(iter(self._waiting.values()), None)

    async def outlast(self, write: Callable[[], Awaitable[None]]) -> None:
        """Write to the store, however long its disk is full.

        Args:
            write: Begins anew at each try; what it has written before, it does not write again.
        """
        try:
            while True:
                try:
                    return await write()
                except StoreFull as error:
                    await self._wait(write, str(error))
        finally:
            self._waiting.pop(write, None)

    def retry(self) -> None:
        """Try at once what waits for room."""
        self._may_retry.set()

    async def _wait(self, write: Callable[[], Awaitable[None]], reason: str) -> None:
        if not self._waiting:
            log.error("jobs are paused", reason=reason, hint="make room; nothing is lost")
        self._waiting[write] = reason
        self._may_retry.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(_RETRY_S):
                await self._may_retry.wait()
