"""A process's end of the wire: one inbox, one link per target."""

import asyncio
from collections.abc import Callable
from threading import Thread

import zmq

from common.errors import WireError
from common.ids import Endpoint, Epoch, Term, WorkerId
from common.messages import Hop, Message
from common.wire.addresses import demand_bindable
from common.wire.codec import Frame, Header, encode
from common.wire.curve import Locksmith
from common.wire.distance import Distance
from common.wire.inbox import Inbox
from common.wire.limits import WireLimits
from common.wire.links import Link

MAX_SOCKETS = 8192
"""Sockets of a process; a link takes three."""

CLOSE_MARGIN_S = 1.0
"""Seconds beyond the linger that closing waits for libzmq's own threads."""


class Transport:
    """Carries messages between this process and its peers; lives on one event loop."""

    def __init__(
        self,
        *,
        bind: Endpoint,
        worker_id: WorkerId,
        epoch: Epoch,
        limits: WireLimits,
        locksmith: Locksmith | None = None,
        distance: Distance | None = None,
    ) -> None:
        """Keep the settings; nothing is opened yet.

        Args:
            bind: Address of the inbox; port `*` or 0 takes a free one.
            worker_id: Who this process is.
            epoch: Which life of it this is.
            limits: What peers may send, and how long links wait.
            locksmith: Has the keys; None speaks in the clear, inside this machine only.
            distance: How far away peers are to seem; None: as far as they are.
        """
        self._bind = bind
        self._worker_id = worker_id
        self._epoch = epoch
        self._limits = limits
        self._locksmith = locksmith or Locksmith(None)
        self._distance = distance or Distance()
        self._links: dict[tuple[Endpoint, Epoch], Link] = {}
        """By the life that is meant: what an earlier one left unread is not for the next."""
        self._inbox: Inbox | None = None
        self._on_lost: Callable[[Endpoint, Epoch], None] | None = None
        self._on_rejected: Callable[[WireError], None] | None = None
        self._context: zmq.Context[zmq.Socket[bytes]] | None = None

    def open(
        self,
        on_message: Callable[[Header, Message], None],
        on_rejected: Callable[[WireError], None],
        on_lost: Callable[[Endpoint, Epoch], None],
    ) -> Endpoint:
        """Bind the inbox and start to take messages.

        Args:
            on_message: Told of every message, on the loop.
            on_rejected: Told of everything else that arrives, and of links that no key opens.
            on_lost: Told once of every link that is lost, never from inside `send`.

        Returns:
            The inbox's address for peers, with the port that was chosen.

        Raises:
            SettingsError: The inbox cannot be bound; nothing is open.
        """
        assert self._context is None, "a transport is opened once"
        demand_bindable(self._bind, guarded=self._locksmith.guarded)
        self._on_lost = on_lost
        self._on_rejected = on_rejected
        self._context = zmq.Context()
        self._context.set(zmq.MAX_SOCKETS, MAX_SOCKETS)
        self._inbox = Inbox(self._context, self._limits, on_message, on_rejected)
        try:
            return self._inbox.bind(self._bind, self._locksmith.keyring)
        except BaseException:
            self.close(0)
            raise

    def send(self, to: Hop, message: Message, *, term: Term) -> int:
        """Hand a message to the wire, without waiting; its tensors belong to the wire from now on.

        A target that cannot take it is lost, and `on_lost` is told soon.

        Returns:
            The bytes of the message's tensors.
        """
        header = Header(
            term=term,
            sender=self._worker_id,
            sender_epoch=self._epoch,
            receiver_epoch=to.epoch,
        )
        frames = encode(message, header)
        tensor_bytes = sum([memoryview(frame).nbytes for frame in frames[1:]])
        if self._distance.is_none:
            self._transmit(to, frames)
        else:
            loop = asyncio.get_running_loop()
            size_bytes = len(frames[0]) + tensor_bytes
            arrival_s = self._distance.arrival_s(size_bytes, loop.time())
            loop.call_at(arrival_s, self._transmit, to, frames)
        return tensor_bytes

    def close(self, linger_s: float) -> None:
        """Close everything; closing twice is fine.

        Args:
            linger_s: Seconds that messages already handed to established links may still take.
        """
        context, self._context = self._context, None
        if context is None:
            return
        if self._inbox is not None:
            self._inbox.close()
        for link in self._links.values():
            link.close(linger_s)
        self._links.clear()
        # Terminating a context can hang for ever; a daemon thread does not keep the process.
        ending = Thread(target=context.term, name="wire-close", daemon=True)
        ending.start()
        ending.join(linger_s + CLOSE_MARGIN_S)

    def _transmit(self, to: Hop, frames: list[Frame]) -> None:
        if self._context is None:
            return
        life = (to.endpoint, to.epoch)
        link = self._links.get(life)
        if link is None:
            link = self._links[life] = Link(
                self._context,
                to.endpoint,
                self._limits,
                self._locksmith,
                lambda reason: self._forget(life, reason),
            )
        link.send(frames)

    def _forget(self, life: tuple[Endpoint, Epoch], reason: WireError | None) -> None:
        del self._links[life]
        assert self._on_lost is not None
        assert self._on_rejected is not None
        if reason is not None:
            self._on_rejected(reason)
        asyncio.get_running_loop().call_soon(self._on_lost, *life)
