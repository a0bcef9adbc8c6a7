"""The way to one target: a PUSH socket with a single connection, and a watch on that connection."""

import asyncio
from collections import deque
from collections.abc import Callable

import zmq
from zmq.utils.monitor import recv_monitor_message

from common.errors import WireError
from common.ids import Endpoint
from common.wire.codec import Frame
from common.wire.curve import FAILED, Locksmith
from common.wire.limits import WireLimits

MISSED_HEARTBEATS = 5
"""Heartbeats of libzmq that a peer may miss in a row."""

_NOW = int(zmq.NOBLOCK)
_NOW_AND_MORE = int(zmq.NOBLOCK | zmq.SNDMORE)
"""As plain numbers: putting flags together takes longer than sending a frame."""

_WATCHED = zmq.Event.HANDSHAKE_SUCCEEDED | zmq.Event.DISCONNECTED | FAILED


class Link:
    """Sends to one target, in order and without ever waiting, until the target is lost.

    A PUSH deals its messages round over its connections, so it must never have two. Messages wait
    here until the handshake is done, then in libzmq. A link is lost once and never comes back:
    its target does not answer in time, does not take the key, hangs up, or takes nothing more.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        endpoint: Endpoint,
        limits: WireLimits,
        locksmith: Locksmith,
        on_lost: Callable[[WireError | None], None],
    ) -> None:
        """Begin to connect.

        Args:
            context: Of the process.
            endpoint: The target's address.
            limits: How much may wait, and for how long.
            locksmith: Opens the way.
            on_lost: Told once, with the reason if it is about addresses or keys.
        """
        self._limits = limits
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[list[Frame]] = deque()
        self._connected = False
        self._locked = False
        self._socket = _open(context, endpoint, limits)
        self._monitor = self._socket.get_monitor_socket(_WATCHED)
        self._loop.add_reader(self._monitor.fileno(), self._watch)
        self._deadline = self._loop.call_later(limits.connect_timeout_s, self._lose)
        self._watch()  # a socket that was never read does not signal what arrives first
        self._connect(endpoint, locksmith)

    def send(self, frames: list[Frame]) -> None:
        """Send a message, or lose the link if that would mean to wait."""
        if self._connected:
            self._push(frames)
        elif len(self._waiting) < self._limits.max_queued:
            self._waiting.append(frames)
        else:
            self._lose()

    def close(self, linger_s: float) -> None:
        """Close the sockets; libzmq sends on what it has for so long. Closing twice is fine."""
        if self._socket.closed:
            return
        self._deadline.cancel()
        self._loop.remove_reader(self._monitor.fileno())
        self._socket.disable_monitor()
        self._monitor.close(linger=0)
        self._socket.close(linger=round(linger_s * 1000))

    def _connect(self, endpoint: Endpoint, locksmith: Locksmith) -> None:
        reason = None
        try:
            self._locked = locksmith.open(self._socket, endpoint)
        except WireError as error:
            reason = error
        except zmq.ZMQError:
            pass  # what libzmq refuses is as lost as what it cannot reach
        else:
            return
        self._deadline.cancel()
        self._deadline = self._loop.call_later(0, self._lose, reason)

    def _push(self, frames: list[Frame]) -> None:
        try:
            self._try_push(frames)
        except zmq.Again:
            # libzmq refuses by what it knew a moment ago; polling makes it look.
            if self._socket.poll(0, zmq.POLLOUT):
                self._try_push(frames)
            else:
                self._lose()

    def _try_push(self, frames: list[Frame]) -> None:
        """Send a message whole, or nothing of it: libzmq refuses with the first frame if at all."""
        # pyzmq copies frames under 64 KiB all the same, and keeps the others alive.
        *others, last = frames
        for frame in others:
            self._socket.send(frame, _NOW_AND_MORE, copy=False)
        self._socket.send(last, _NOW, copy=False)

    def _watch(self) -> None:
        # Read until empty, for the reason given in `Inbox`; losing the link closes the monitor.
        while not self._monitor.closed:
            try:
                event = recv_monitor_message(self._monitor, zmq.NOBLOCK)["event"]
            except zmq.Again:
                return
            if event == zmq.Event.HANDSHAKE_SUCCEEDED and not self._connected:
                self._flush()
            elif event & FAILED:
                self._handshake_failed()
            elif self._connected:  # before the handshake, libzmq just tries again
                self._lose()

    def _handshake_failed(self) -> None:
        if self._locked:  # in the clear, libzmq just tries again
            self._lose(WireError("the target does not take this process's key", kind="link"))

    def _flush(self) -> None:
        self._connected = True
        self._deadline.cancel()
        while self._waiting and not self._socket.closed:
            self._push(self._waiting.popleft())

    def _lose(self, reason: WireError | None = None) -> None:
        if not self._socket.closed:
            self.close(0)
            self._on_lost(reason)


def _open(
    context: zmq.Context[zmq.Socket[bytes]], endpoint: Endpoint, limits: WireLimits
) -> zmq.Socket[bytes]:
    socket = context.socket(zmq.PUSH)
    heartbeat_ms = round(limits.heartbeat_s * 1000)
    socket.set(zmq.IMMEDIATE, 1)
    # libzmq hears of taken messages only once per half of its mark: that half may seem occupied.
    socket.set(zmq.SNDHWM, 2 * limits.max_queued)
    socket.set(zmq.IPV6, "[" in endpoint)
    socket.set(zmq.RECONNECT_IVL, 50)
    socket.set(zmq.RECONNECT_IVL_MAX, 1000)
    socket.set(zmq.HEARTBEAT_IVL, heartbeat_ms)
    socket.set(zmq.HEARTBEAT_TIMEOUT, heartbeat_ms * MISSED_HEARTBEATS)
    socket.set(zmq.TCP_KEEPALIVE, 1)
    socket.set(zmq.TCP_KEEPALIVE_IDLE, 10)
    socket.set(zmq.TCP_KEEPALIVE_INTVL, 5)
    socket.set(zmq.TCP_KEEPALIVE_CNT, 3)
    return socket
