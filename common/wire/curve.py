"""CURVE on every tcp link: who may connect to an inbox, and which key opens the way to another.

An inbox on tcp encrypts, and asks for each connection's key before it takes a byte of a message
(ZAP, ZeroMQ RFC 27). A link must know the key of the inbox that it connects to: the address names
it, `tcp://HOST:PORT#KEY_ID`, and only keys of the allow-list count. The router's address comes from
the settings and names none; there its known keys are tried in turn.
"""

import asyncio
from collections.abc import Callable

import zmq
from zmq.utils import z85
from zmq.utils.monitor import recv_monitor_message

from common.errors import WireError
from common.ids import Endpoint
from common.messages.speakers import Speaker
from common.wire.addresses import is_address, is_open, split_key
from common.wire.keys import Keyring, key_id

HANDSHAKE_S = 5.0
"""Seconds that a connection has to prove its key."""

FAILED = (
    zmq.Event.HANDSHAKE_FAILED_AUTH
    | zmq.Event.HANDSHAKE_FAILED_PROTOCOL
    | zmq.Event.HANDSHAKE_FAILED_NO_DETAIL
)
"""What libzmq's monitor calls a handshake that did not succeed."""

_ZAP_ADDRESS = "inproc://zeromq.zap.01"
_ZAP_ITEMS = 7
_ZAP_VERSION = b"1.0"
_QUESTIONS_PER_TURN = 64

Context = zmq.Context[zmq.Socket[bytes]]
Socket = zmq.Socket[bytes]


class Door:
    """Guards an inbox: lets known keys in, and tells whose each message is."""

    def __init__(
        self, context: Context, keyring: Keyring, on_rejected: Callable[[WireError], None]
    ) -> None:
        """Begin to answer libzmq; without this, it would let every key in."""
        self._keyring = keyring
        self._on_rejected = on_rejected
        self._loop = asyncio.get_running_loop()
        self._questions = context.socket(zmq.REP)
        self._questions.bind(_ZAP_ADDRESS)
        self._monitor: Socket | None = None
        self._watch(self._questions, self._answer)

    def lock(self, inbox: Socket) -> None:
        """Have a socket that is not bound yet encrypt, and ask for keys."""
        inbox.set(zmq.CURVE_SERVER, 1)
        inbox.set(zmq.CURVE_SECRETKEY, self._keyring.own.secret)
        inbox.set(zmq.ZAP_DOMAIN, b"glinthawk")
        inbox.set(zmq.HANDSHAKE_IVL, round(HANDSHAKE_S * 1000))
        # A refused key was counted when libzmq asked about it.
        self._monitor = inbox.get_monitor_socket(FAILED & ~zmq.Event.HANDSHAKE_FAILED_AUTH)
        self._watch(self._monitor, self._note_failure)

    def role_of(self, frame: zmq.Frame) -> Speaker:
        """Give the role of whoever sent a frame.

        Raises:
            WireError: Its key is not in the allow-list any more.
        """
        public = str(frame.get("User-Id")).encode()
        role = self._keyring.role_of(public)
        if role is None:
            raise WireError(f"the key {key_id(public)} is not in the allow-list now", kind="key")
        return role

    def close(self, inbox: Socket) -> None:
        """Answer no more; to be called before the inbox is closed."""
        self._loop.remove_reader(self._questions.fileno())
        self._questions.close(linger=0)
        if self._monitor is not None:
            self._loop.remove_reader(self._monitor.fileno())
            inbox.disable_monitor()
            self._monitor.close(linger=0)

    def _watch(self, socket: Socket, take: Callable[[], bool]) -> None:
        def drain() -> None:
            # Read until empty, for the reason given in `Inbox`; a flood leaves room for the rest.
            for _ in range(_QUESTIONS_PER_TURN):
                if socket.closed or not take():
                    return
            self._loop.call_soon(drain)

        self._loop.add_reader(socket.fileno(), drain)
        drain()

    def _answer(self) -> bool:
        try:
            question = self._questions.recv_multipart(zmq.NOBLOCK)
        except zmq.Again:
            return False
        refusal = self._refusal(question)
        verdict = [b"200", b"OK", self._user_id(question)] if refusal is None else _NO
        self._questions.send_multipart([_ZAP_VERSION, *question[1:2], *verdict, b""])
        if refusal is not None:
            self._on_rejected(WireError(refusal, kind="key"))
        return True

    def _refusal(self, question: list[bytes]) -> str | None:
        if len(question) != _ZAP_ITEMS or question[5] != b"CURVE":
            return "a connection without a key"
        public = z85.encode(question[6])
        if self._keyring.role_of(public) is not None:
            return None
        address = question[3].decode(errors="replace")
        return f"the key {key_id(public)}, from {address}, is not in the allow-list"

    @staticmethod
    def _user_id(question: list[bytes]) -> bytes:
        return z85.encode(question[6])

    def _note_failure(self) -> bool:
        assert self._monitor is not None
        try:
            recv_monitor_message(self._monitor, zmq.NOBLOCK)
        except zmq.Again:
            return False
        self._on_rejected(WireError("a connection broke off its handshake", kind="handshake"))
        return True


_NO = [b"400", b"unknown key", b""]


class Locksmith:
    """Opens the way to other inboxes: with the right key, or in the clear where that is allowed."""

    def __init__(self, keyring: Keyring | None, *, insecure: bool = False) -> None:
        """Keep the keys.

        Args:
            keyring: None speaks in the clear.
            insecure: It may do so to other machines, too.
        """
        self.keyring = keyring
        self._insecure = insecure

    @property
    def guarded(self) -> bool:
        """Whether addresses may be used that the network reaches."""
        return self.keyring is not None or self._insecure

    def open(self, socket: Socket, endpoint: Endpoint) -> bool:
        """Connect a socket; tell whether a key is needed there.

        Raises:
            WireError: There is no way that is safe; nothing was connected.
            zmq.ZMQError: libzmq does not take the address.
        """
        if not is_address(endpoint):
            raise WireError(f"{endpoint} is no address", kind="link")
        place, wanted = split_key(endpoint)
        locked = self.keyring is not None and place.startswith("tcp://")
        if self.keyring is not None and locked:
            self._unlock(socket, self.keyring, endpoint, wanted)
        elif wanted is not None:
            raise WireError(f"{endpoint} wants a key: give --key-directory", kind="link")
        elif not self._insecure and is_open(place):
            raise WireError(f"{endpoint} is beyond this machine: no keys, no link", kind="link")
        socket.connect(place)
        return locked

    def _unlock(
        self, socket: Socket, keyring: Keyring, endpoint: Endpoint, wanted: str | None
    ) -> None:
        key = keyring.named(wanted) if wanted is not None else keyring.router_key()
        if key is None:
            raise WireError(f"the key of {endpoint} is not in the allow-list", kind="link")
        socket.set(zmq.CURVE_SERVERKEY, key)
        socket.set(zmq.CURVE_PUBLICKEY, keyring.own.public)
        socket.set(zmq.CURVE_SECRETKEY, keyring.own.secret)
