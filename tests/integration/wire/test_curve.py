"""Locked links on real sockets: the right key hears and is heard, every other gets nothing."""

import asyncio
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
import zmq

from common.errors import WireError
from common.ids import Endpoint, MicrobatchId, Term
from common.messages import Drain, Hop, RouterHeartbeat
from common.messages.speakers import ROLES, Speaker
from common.wire.codec import Header, encode
from common.wire.keys import Keyring, create_keys
from common.wire.limits import WireLimits
from tests.support.messages import attention_result, hop
from tests.support.peers import WAIT_S, Peer, soon

LOOPBACK = "tcp://127.0.0.1:*"

MakePeer = Callable[..., Peer]


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    create_keys(tmp_path / "keys")
    return tmp_path / "keys"


@pytest.fixture
def peer(keys: Path) -> Iterator[MakePeer]:
    """Give open peers of a role, with the keys of a folder."""
    with ExitStack() as stack:

        def make(role: Speaker, folder: Path = keys, name: str | None = None) -> Peer:
            keyring = Keyring(folder, role)
            return stack.enter_context(Peer(LOOPBACK, name=name or role, keyring=keyring))

        yield make


@pytest.fixture
def connect() -> Iterator[Callable[[Endpoint, dict[int, bytes]], zmq.Socket[bytes]]]:
    """Give bare sockets that are connected with these options."""
    with ExitStack() as stack:
        context = stack.enter_context(zmq.Context())
        context.setsockopt(zmq.LINGER, 0)

        def make(endpoint: Endpoint, options: dict[int, bytes]) -> zmq.Socket[bytes]:
            bare = stack.enter_context(context.socket(zmq.PUSH))
            for option, value in options.items():
                bare.set(option, value)
            bare.connect(endpoint.partition("#")[0])
            return bare

        yield make


def a_heartbeat() -> list[bytes]:
    header = Header(term=Term(1), sender="router", sender_epoch=1, receiver_epoch=1)
    message = RouterHeartbeat(oldest_live=MicrobatchId(1))
    return [bytes(frame) for frame in encode(message, header)]


async def kinds(receiver: Peer, number: int) -> set[str]:
    return {(await soon(receiver.rejected)).kind for _ in range(number)}


async def test_the_right_keys_carry_messages_both_ways(peer: MakePeer) -> None:
    router, worker = peer("router"), peer("layer_worker")

    router.say(worker.hop, 7)
    message = attention_result([10_000], [1])
    attention = peer("attention_worker")
    attention.transport.send(worker.hop, message, term=Term(1))

    received = [(await soon(worker.received))[1] for _ in range(2)]
    assert {type(one) for one in received} == {RouterHeartbeat, type(message)}
    assert message in received


async def test_an_address_names_the_key_that_opens_it(peer: MakePeer, keys: Path) -> None:
    worker = peer("kv_manager")

    _, _, name = worker.hop.endpoint.partition("#")

    assert Keyring(keys, "router").named(name) == Keyring(keys, "kv_manager").own.public


async def test_the_router_is_reached_by_an_address_without_a_key(peer: MakePeer) -> None:
    router, worker = peer("router"), peer("kv_manager")
    from_settings = Endpoint(router.hop.endpoint.partition("#")[0])

    worker.transport.send(hop("router", from_settings), attention_result([1], [1]), term=Term(1))

    assert (await soon(router.rejected)).kind == "role"  # it came through, but says too much


async def test_a_stranger_with_a_key_gets_nothing(
    peer: MakePeer, tmp_path: Path, keys: Path
) -> None:
    create_keys(tmp_path / "strange")
    for path in [keys / f"{role}.public" for role in ROLES]:  # a stranger knows what is public
        theirs = tmp_path / "strange" / path.name
        theirs.write_bytes(theirs.read_bytes() + path.read_bytes())
    worker, stranger = peer("kv_manager"), peer("router", tmp_path / "strange")

    stranger.say(worker.hop, 1)

    assert await soon(stranger.lost) == worker.hop.endpoint
    assert (await soon(stranger.rejected)).kind == "link"
    assert await kinds(worker, 1) == {"key"}
    assert worker.received.empty()


async def test_a_stranger_without_a_key_gets_nothing(peer: MakePeer, connect) -> None:
    worker = peer("kv_manager")

    bare = connect(worker.hop.endpoint, {})
    bare.send_multipart(a_heartbeat())

    assert await kinds(worker, 1) == {"handshake"}
    assert worker.received.empty()


async def test_a_stranger_to_the_inbox_gets_nothing(peer: MakePeer, connect) -> None:
    worker = peer("kv_manager")
    public, secret = zmq.curve_keypair()
    wrong = {zmq.CURVE_PUBLICKEY: public, zmq.CURVE_SECRETKEY: secret, zmq.CURVE_SERVERKEY: public}

    bare = connect(worker.hop.endpoint, wrong)
    bare.send_multipart(a_heartbeat())

    assert await kinds(worker, 1) == {"handshake"}
    assert worker.received.empty()


async def test_bytes_that_are_no_zeromq_are_broken_off(peer: MakePeer) -> None:
    router, worker = peer("router"), peer("kv_manager")
    host, _, port = worker.hop.endpoint.partition("#")[0].removeprefix("tcp://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))

    writer.write(b"GET / HTTP/1.1\r\n\r\n" * 10)
    with suppress(ConnectionResetError):
        async with asyncio.timeout(WAIT_S):
            await reader.read()
    writer.close()
    router.say(worker.hop, 1)

    assert await worker.hear() == 1


async def test_a_word_of_another_role_is_refused(peer: MakePeer) -> None:
    worker, attention = peer("layer_worker"), peer("attention_worker")

    attention.transport.send(worker.hop, Drain(deadline_s=0.0), term=Term(1))
    peer("kv_manager", name="router").say(worker.hop, 1)

    assert await kinds(worker, 2) == {"role"}
    assert worker.received.empty()


async def test_a_removed_key_is_not_heard_on_its_open_link(peer: MakePeer, keys: Path) -> None:
    keyring = Keyring(keys, "kv_manager")
    router = peer("router")
    with Peer(LOOPBACK, name="kv_manager", keyring=keyring) as worker:
        router.say(worker.hop, 1)
        assert await worker.hear() == 1
        (keys / "router.public").write_bytes(zmq.curve_keypair()[0])

        keyring.reload()
        router.say(worker.hop, 2)

        assert await kinds(worker, 1) == {"key"}
        assert worker.received.empty()


async def test_while_keys_change_both_are_heard_and_reached(
    peer: MakePeer, keys: Path, tmp_path: Path
) -> None:
    create_keys(tmp_path / "new", beside=keys)
    for role in ROLES:
        shutil.copy(tmp_path / f"new/{role}.public", keys)
    router, manager = peer("router", tmp_path / "new"), peer("kv_manager")
    from_settings = hop("router", router.hop.endpoint.partition("#")[0])

    router.say(manager.hop, 3)
    assert await manager.hear() == 3
    for _ in range(2):  # the old key of the router is tried, too, and is not taken
        manager.say(from_settings, 1)
        reason = await soon(router.rejected)
        if reason.kind == "role":  # a manager has no heartbeat of a router to say, but is heard
            break
        assert await soon(manager.lost) == from_settings.endpoint
    assert reason.kind == "role"


@pytest.mark.parametrize(
    "endpoint",
    ["tcp://10.255.255.1:1", "tcp://127.0.0.1:1#0123456789abcdef"],
)
async def test_without_keys_there_is_no_way_to_other_machines_or_locked_inboxes(
    endpoint: str,
) -> None:
    with Peer(LOOPBACK) as plain:
        plain.say(hop(endpoint=endpoint), 1)

        reason: WireError = await soon(plain.rejected)

        assert reason.kind == "link"
        assert await soon(plain.lost) == endpoint


async def test_an_address_with_an_unknown_key_is_not_connected_to(peer: MakePeer) -> None:
    router = peer("router")
    with socket.create_server(("127.0.0.1", 0)) as elsewhere:
        elsewhere.settimeout(0.05)
        endpoint = f"tcp://127.0.0.1:{elsewhere.getsockname()[1]}#0123456789abcdef"

        router.say(hop(endpoint=endpoint), 1)

        assert await soon(router.lost) == endpoint
        with pytest.raises(TimeoutError):
            elsewhere.accept()


async def test_an_ipc_inbox_needs_no_key(peer: MakePeer, keys: Path, folder: Path) -> None:
    keyring = Keyring(keys, "kv_manager")
    with Peer(f"ipc://{folder}/inbox", keyring=keyring, limits=WireLimits()) as worker:
        assert "#" not in worker.hop.endpoint
        peer("router").say(Hop(worker_id="b", endpoint=worker.hop.endpoint, epoch=1), 5)

        assert await worker.hear() == 5
