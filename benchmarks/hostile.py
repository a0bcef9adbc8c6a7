"""What an enemy sends: messages that are none, and connections with the wrong key.

`benchmarks.fuzz` draws from it, `benchmarks.curve` starts it as a process of its own:

    python -m benchmarks.hostile messages --rate 1000 ipc:///run/a/router
    python -m benchmarks.hostile connections --rate 100 --key-directory ./keys tcp://127.0.0.1:7400

With `--dummy`, the same goes to a port of this process's own, which takes everything and does nothing:
what is left is what the enemy costs by being on the same machine.
"""

import random
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Annotated

import msgpack  # type: ignore[import-untyped]
import typer
import zmq
from hypothesis import HealthCheck, given, settings

from common.ids import Epoch, Term, WorkerId
from common.messages import Message
from common.wire.codec import Header, encode
from common.wire.keys import Keyring
from common.wire.limits import WireLimits
from tests.support.messages import all_messages

Frames = list[bytes]

app = typer.Typer(add_completion=False)

_RECEIVER_EPOCH = 5
"""Its place in an envelope."""
_BEGIN = b"\x98\x01"
"""Of an envelope: an array of eight, whose first item is the version."""
_SIZED = (b"\xdd", b"\xdb", b"\xc6", b"\xc9", b"\xdf")
"""msgpack's array, text, bytes, extension and map with a size of four bytes."""
_FULL_SIZE_EVERY = 200
"""Of the oversize messages, those that really have the bytes; the others only claim to."""
_PATIENCE_MS = 10_000
"""How long an inbox may take nothing."""
_LATE_S = 0.1
"""What is later than this is left out."""
_OPEN_S = 0.1
"""How long a connection may try before the next takes its place."""


class Arsenal:
    """Draws hostile messages, of six kinds in turn, always the same ones for a seed."""

    def __init__(self, recorded: Sequence[Frames] = (), *, seed: int = 0) -> None:
        """Collect what to start from.

        Args:
            recorded: Messages that were meant for the target once; replayed and cut short. All
                others name an epoch that is not the target's.
            seed: Of all that is drawn.
        """
        self._random = random.Random(seed)
        self._fine = [self._to_a_stranger(frames) for frames in (*sample_messages(), *recorded)]
        self._recorded = list(recorded) or self._fine
        self.kinds: dict[str, Callable[[], Frames]] = {
            "random": self._random_bytes,
            "mutated": self._mutated,
            "truncated": self._truncated,
            "replayed": lambda: self._random.choice(self._recorded),
            "wrong epoch": lambda: self._random.choice(self._fine),
            "oversize": self._oversize,
        }
        self.drawn: Counter[str] = Counter()

    def draw(self) -> Iterator[Frames]:
        """Give hostile messages without end."""
        while True:
            for kind, make in self.kinds.items():
                self.drawn[kind] += 1
                yield make()

    def _to_a_stranger(self, frames: Frames) -> Frames:
        envelope = msgpack.unpackb(frames[0])
        envelope[_RECEIVER_EPOCH] = 1 + self._random.getrandbits(62)
        return [msgpack.packb(envelope), *frames[1:]]

    def _random_bytes(self) -> Frames:
        draw = self._random
        return [draw.randbytes(draw.randrange(200)) for _ in range(draw.randint(1, 5))]

    def _mutated(self) -> Frames:
        frames = list(self._random.choice(self._fine))
        for _ in range(self._random.randint(1, 4)):
            index = self._random.randrange(len(frames))
            frame = bytearray(frames[index])
            if frame:
                frame[self._random.randrange(len(frame))] = self._random.randrange(256)
            frames[index] = bytes(frame)
        return frames

    def _truncated(self) -> Frames:
        frames = list(self._random.choice(self._recorded))
        index = self._random.randrange(len(frames))
        if frames[index] and self._random.random() < 0.8:
            frames[index] = frames[index][: self._random.randrange(len(frames[index]))]
        else:
            del frames[index]
        return frames or [b""]

    def _oversize(self) -> Frames:
        limits = WireLimits()
        if self.drawn["oversize"] % _FULL_SIZE_EVERY == 0:
            return [bytes(limits.max_envelope_bytes + 1)]
        size = self._random.randrange(2**20, 2**32).to_bytes(4, "big")
        claims = [[_BEGIN + kind + size] for kind in _SIZED]
        return self._random.choice([*claims, [b""] * (limits.max_frames + 1), [b"\x91" * 5000]])


@cache
def sample_messages(number: int = 400) -> list[Frames]:
    """Give messages of every kind that the codec takes."""
    found: list[Message] = []

    @settings(
        max_examples=number,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(all_messages())
    def collect(message: Message) -> None:
        found.append(message)

    collect()
    header = Header(
        term=Term(1), sender=WorkerId("router"), sender_epoch=Epoch(1), receiver_epoch=Epoch(1)
    )
    return [[bytes(frame) for frame in encode(message, header)] for message in found]


def send_messages(
    addresses: Sequence[str], messages: Iterator[Frames], *, number: int, rate: float = 0.0
) -> None:
    """Send messages to inboxes in turn, waiting where one is full.

    Args:
        addresses: `ipc://` or `tcp://` in the clear.
        messages: What to send.
        number: How many.
        rate: Per second; 0 is as fast as they are taken.

    Raises:
        zmq.Again: An inbox takes nothing more.
    """
    with ExitStack() as stack:
        context = stack.enter_context(zmq.Context())
        sockets = [stack.enter_context(context.socket(zmq.PUSH)) for _ in addresses]
        for each, address in zip(sockets, addresses, strict=True):
            each.set(zmq.SNDHWM, 100)
            each.set(zmq.SNDTIMEO, _PATIENCE_MS)
            each.set(zmq.LINGER, _PATIENCE_MS)
            each.connect(address)
        for count in _paced(number, rate):
            sockets[count % len(sockets)].send_multipart(next(messages))


def _paced(number: int, rate: float) -> Iterator[int]:
    """Count at a rate per second, 0 being as fast as it goes; who stood still does not catch up."""
    due_s = time.monotonic()
    for count in range(number):
        if rate:
            now = time.monotonic()
            due_s = max(due_s + 1 / rate, now - _LATE_S)
            time.sleep(max(0.0, due_s - now))
        yield count


Addresses = Annotated[list[str], typer.Argument(help="Inboxes to aim at, in turn.")]
Dummy = Annotated[bool, typer.Option("--dummy", help="Aim at a port of my own instead.")]


@app.command()
def messages(
    addresses: Addresses,
    rate: Annotated[float, typer.Option(help="Per second; 0: as fast as they go.")] = 0,
    seed: int = 0,
    dummy: Dummy = False,
) -> None:
    """Send hostile messages until stopped."""
    arsenal = Arsenal(seed=seed)
    targets = [_swallow_messages() for _ in addresses] if dummy else addresses
    print("begun", flush=True)
    send_messages(targets, arsenal.draw(), number=2**62, rate=rate)


@app.command()
def connections(
    addresses: Addresses,
    key_directory: Annotated[Path, typer.Option(help="Of the cluster; its public keys are known.")],
    rate: Annotated[float, typer.Option(help="Per second.")] = 100,
    dummy: Dummy = False,
) -> None:
    """Try to connect with keys that nobody knows, until stopped."""
    # The strangers know the router's public key, so that the router has to look at theirs.
    router = Keyring(key_directory, "router").own
    targets = [_refuse_connections(router.secret)] * len(addresses) if dummy else addresses
    context = zmq.Context()
    print("begun", flush=True)
    trying: deque[zmq.Socket[bytes]] = deque()
    for count in _paced(2**62, rate):
        if len(trying) > rate * _OPEN_S:
            trying.popleft().close(linger=0)
        stranger = context.socket(zmq.PUSH)
        stranger.curve_publickey, stranger.curve_secretkey = zmq.curve_keypair()
        stranger.curve_serverkey = router.public
        stranger.connect(targets[count % len(targets)].partition("#")[0])
        trying.append(stranger)


def _swallow_messages() -> str:
    """Take all messages on a port and do nothing; give its address."""
    inbox: zmq.Socket[bytes] = zmq.Context().socket(zmq.PULL)
    inbox.bind("tcp://127.0.0.1:*")

    def swallow() -> None:
        while True:
            inbox.recv_multipart(copy=False)

    threading.Thread(target=swallow, daemon=True).start()
    return str(inbox.get_string(zmq.LAST_ENDPOINT))


def _refuse_connections(secret: bytes) -> str:
    """Take part in every handshake on a port, and refuse every key; give its address."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    questions = context.socket(zmq.REP)
    questions.bind("inproc://zeromq.zap.01")
    inbox = context.socket(zmq.PULL)
    inbox.curve_server, inbox.curve_secretkey = True, secret
    inbox.bind("tcp://127.0.0.1:*")

    def refuse() -> None:
        while not inbox.closed:  # held here: nobody else does, and one that is forgotten is closed
            version, number, *_ = questions.recv_multipart()
            questions.send_multipart([version, number, b"400", b"no", b"", b""])

    threading.Thread(target=refuse, daemon=True).start()
    return str(inbox.get_string(zmq.LAST_ENDPOINT))


if __name__ == "__main__":
    app()
