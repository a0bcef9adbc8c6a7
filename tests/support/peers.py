"""Ends of a real wire for tests: what arrives can be awaited."""

import asyncio
from types import TracebackType
from typing import Self, TypeVar

from common.errors import WireError
from common.ids import Endpoint, Epoch, MicrobatchId, Term, WorkerId
from common.messages import Hop, Message, RouterHeartbeat
from common.wire.codec import Header
from common.wire.curve import Locksmith
from common.wire.distance import Distance
from common.wire.keys import Keyring
from common.wire.limits import WireLimits
from common.wire.transport import Transport

T = TypeVar("T")

WAIT_S = 5.0
"""Longest that a test waits for something that should be there at once."""


class Peer:
    """A transport and queues of all that it is told."""

    def __init__(
        self,
        bind: str,
        *,
        limits: WireLimits | None = None,
        distance: Distance | None = None,
        name: str = "a",
        keyring: Keyring | None = None,
    ):
        self.received: asyncio.Queue[tuple[Header, Message]] = asyncio.Queue()
        self.rejected: asyncio.Queue[WireError] = asyncio.Queue()
        self.lost: asyncio.Queue[Endpoint] = asyncio.Queue()
        self.transport = Transport(
            bind=Endpoint(bind),
            worker_id=WorkerId(name),
            epoch=Epoch(1),
            limits=limits or WireLimits(),
            locksmith=Locksmith(keyring),
            distance=distance,
        )
        self.hop = Hop(worker_id=WorkerId(name), endpoint=Endpoint(bind), epoch=Epoch(1))

    def __enter__(self) -> Self:
        endpoint = self.transport.open(
            lambda header, message: self.received.put_nowait((header, message)),
            self.rejected.put_nowait,
            lambda endpoint, epoch: self.lost.put_nowait(endpoint),
        )
        self.hop = Hop(worker_id=self.hop.worker_id, endpoint=endpoint, epoch=self.hop.epoch)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.transport.close(0)

    def say(self, to: Hop, number: int) -> None:
        """Send a small message with a number in it."""
        message = RouterHeartbeat(oldest_live=MicrobatchId(number))
        self.transport.send(to, message, term=Term(1))

    async def hear(self) -> int:
        """Wait for such a message."""
        _, message = await soon(self.received)
        assert isinstance(message, RouterHeartbeat)
        return message.oldest_live


async def soon(queue: asyncio.Queue[T]) -> T:
    """Wait for what should be there at once."""
    async with asyncio.timeout(WAIT_S):
        return await queue.get()
