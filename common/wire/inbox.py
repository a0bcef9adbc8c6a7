"""A process's one inbox: the PULL socket that all peers push to."""

import asyncio
from collections.abc import Callable

import zmq

from common.errors import SettingsError, WireError
from common.ids import Endpoint
from common.messages import Message
from common.messages.speakers import demand_may_say
from common.wire.addresses import remove_socket_file
from common.wire.codec import Header, decode
from common.wire.curve import Door
from common.wire.keys import Keyring, key_id
from common.wire.limits import WireLimits

MESSAGES_PER_TURN = 64
"""Messages taken in one turn of the loop, so that a flood leaves room for everything else."""

_NOW = int(zmq.NOBLOCK)


class Inbox:
    """Takes messages off the wire whenever the loop has a turn to spare.

    libzmq's descriptor tells of a change only once: after that it stays silent until the socket
    has been read empty. So each wake-up reads until there is nothing left, or asks for another
    turn. Nothing else uses this socket, so nothing else can swallow a wake-up.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        limits: WireLimits,
        on_message: Callable[[Header, Message], None],
        on_rejected: Callable[[WireError], None],
    ) -> None:
        self._limits = limits
        self._on_message = on_message
        self._on_rejected = on_rejected
        self._loop = asyncio.get_running_loop()
        self._endpoint: Endpoint | None = None
        self._context = context
        self._door: Door | None = None
        self._socket = context.socket(zmq.PULL)
        self._socket.set(zmq.RCVHWM, limits.max_queued)
        self._socket.set(zmq.MAXMSGSIZE, limits.max_message_bytes)
        self._socket.set(zmq.LINGER, 0)

    def bind(self, endpoint: Endpoint, keyring: Keyring | None = None) -> Endpoint:
        """Start to listen.

        Args:
            endpoint: Port `*` or 0 takes a free one.
            keyring: Guards an inbox on tcp; None lets everyone in.

        Returns:
            The address for peers: with the port, and with this process's key where one is needed.

        Raises:
            SettingsError: The address is in use or not of this machine.
        """
        guard = keyring if endpoint.startswith("tcp://") else None
        if guard is not None:
            self._door = Door(self._context, guard, self._on_rejected)
            self._door.lock(self._socket)
        self._socket.set(zmq.IPV6, "[" in endpoint)
        try:
            self._socket.bind(endpoint)
        except zmq.ZMQError as error:
            reason = "is in use" if error.errno == zmq.EADDRINUSE else f"cannot be bound ({error})"
            raise SettingsError(f"{endpoint} {reason}: change the setting `bind`") from None
        self._loop.add_reader(self._socket.fileno(), self._drain)
        self._endpoint = Endpoint(self._socket.get_string(zmq.LAST_ENDPOINT))
        return Endpoint(f"{self._endpoint}#{key_id(guard.own.public)}") if guard else self._endpoint

    def close(self) -> None:
        """Stop listening; what has not been taken is gone. Closing twice is fine."""
        if self._socket.closed:
            return
        self._loop.remove_reader(self._socket.fileno())
        if self._door is not None:
            self._door.close(self._socket)
        if self._endpoint is not None:
            remove_socket_file(self._endpoint)
        self._socket.close()

    def _drain(self) -> None:
        again = True
        try:
            again = self._take_some()
        finally:  # also if a handler has raised: the descriptor would stay silent
            if again and not self._socket.closed:
                self._loop.call_soon(self._drain)

    def _take_some(self) -> bool:
        """Hand on messages; tells whether there may be more."""
        for _ in range(MESSAGES_PER_TURN):
            if self._socket.closed:
                return False
            try:
                frame = self._socket.recv(_NOW, copy=False)
            except zmq.Again:
                return False
            frames = [frame]
            while frame.more:  # `recv_multipart` asks the socket, which takes as long as a frame
                frame = self._socket.recv(_NOW, copy=False)
                frames.append(frame)
            self._take(frames)
        return True

    def _take(self, frames: list[zmq.Frame]) -> None:
        try:
            if self._door is None:
                header, message = decode([frame.buffer for frame in frames], self._limits)
            else:
                role = self._door.role_of(frames[0])
                header, message = decode([frame.buffer for frame in frames], self._limits)
                demand_may_say(role, header.sender, message)
        except WireError as error:
            self._on_rejected(error)
        else:
            self._on_message(header, message)
