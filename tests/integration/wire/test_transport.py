"""Two ends of the wire on real sockets."""

import asyncio
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import zmq
from zmq.utils.monitor import recv_monitor_message

from common.errors import SettingsError
from common.ids import Term
from common.messages import AttentionResult, Message
from common.wire.codec import Header
from common.wire.curve import Locksmith
from common.wire.distance import Distance
from common.wire.limits import WireLimits
from tests.support.messages import attention_result, hop
from tests.support.peers import WAIT_S, Peer, soon

BareSocket = Callable[[int], zmq.Socket[bytes]]

NOWHERE = "ipc:///nonexistent/glinthawk"

LISTENER = """
import sys, zmq
socket = zmq.Context().socket(zmq.PULL)
socket.bind(sys.argv[1])
while True:
    socket.recv_multipart()
    print("heard", flush=True)
"""


@pytest.fixture
def bare_socket() -> Iterator[BareSocket]:
    """Give bare ZeroMQ sockets, for what no transport would do."""
    with ExitStack() as stack:
        context = stack.enter_context(zmq.Context())
        context.setsockopt(zmq.LINGER, 0)
        yield lambda kind: stack.enter_context(context.socket(kind))


async def test_messages_arrive_in_order(bind: str) -> None:
    with Peer(bind) as receiver, Peer("tcp://127.0.0.1:*") as sender:
        for number in range(1000):
            sender.say(receiver.hop, number)

        assert [await receiver.hear() for _ in range(1000)] == list(range(1000))


async def test_a_message_tells_who_speaks_to_whom(bind: str) -> None:
    with Peer(bind) as receiver, Peer("tcp://127.0.0.1:*", name="layer-0") as sender:
        sender.say(receiver.hop, 1)

        header, _ = await soon(receiver.received)

        assert (header.term, header.sender, header.sender_epoch) == (1, "layer-0", 1)
        assert header.receiver_epoch == receiver.hop.epoch


async def test_a_process_can_speak_to_itself(bind: str) -> None:
    with Peer(bind) as peer:
        peer.say(peer.hop, 7)

        assert await peer.hear() == 7


async def test_a_large_tensor_arrives_intact_and_is_counted(bind: str) -> None:
    message = attention_result([100_000], [1])
    with Peer(bind, name="b") as receiver, Peer("tcp://127.0.0.1:*") as sender:
        size_bytes = sender.transport.send(receiver.hop, message, term=Term(1))

        _, received = await soon(receiver.received)

        assert isinstance(received, AttentionResult)
        assert received == message
        assert size_bytes == message.output.size_bytes


async def test_one_target_has_one_connection(bare_socket: BareSocket, folder: Path) -> None:
    inbox = bare_socket(zmq.PULL)
    monitor = inbox.get_monitor_socket(zmq.Event.HANDSHAKE_SUCCEEDED)
    inbox.bind(f"ipc://{folder}/inbox")
    with Peer("tcp://127.0.0.1:*") as sender:
        for number in range(10):
            sender.say(hop(f"name-{number}", f"ipc://{folder}/inbox"), number)
        for _ in range(10):
            assert await asyncio.to_thread(inbox.poll, 1000)
            inbox.recv_multipart()

    recv_monitor_message(monitor, zmq.NOBLOCK)
    with pytest.raises(zmq.Again):
        recv_monitor_message(monitor, zmq.NOBLOCK)
    inbox.disable_monitor()
    monitor.close()


async def test_what_is_sent_before_the_target_is_there_arrives_later(folder: Path) -> None:
    late = Peer(f"ipc://{folder}/late")
    with Peer("tcp://127.0.0.1:*") as sender:
        for number in range(3):
            sender.say(late.hop, number)

        with late:
            assert [await late.hear() for _ in range(3)] == [0, 1, 2]


async def test_a_target_that_never_comes_is_lost_once() -> None:
    with Peer("tcp://127.0.0.1:*", limits=WireLimits(connect_timeout_s=0.02)) as sender:
        sender.say(hop(endpoint=NOWHERE), 1)
        sender.say(hop(endpoint=NOWHERE), 2)

        assert await soon(sender.lost) == NOWHERE
        assert sender.lost.empty()


@pytest.mark.parametrize(
    "endpoint",
    ["", "nonsense", "tcp://127.0.0.1", "tcp://127.0.0.1:99999", "inproc://a", "udp://a:1"],
)
async def test_a_target_without_an_address_is_lost_and_nothing_is_raised(endpoint: str) -> None:
    with Peer("tcp://127.0.0.1:*") as sender:
        sender.say(hop(endpoint=endpoint), 1)

        assert sender.lost.empty()
        assert await soon(sender.lost) == endpoint


async def test_the_wait_for_a_handshake_is_bounded() -> None:
    with Peer("tcp://127.0.0.1:*", limits=WireLimits(max_queued=3)) as sender:
        for number in range(4):
            sender.say(hop(endpoint=NOWHERE), number)

        assert sender.lost.empty()
        assert await soon(sender.lost) == NOWHERE


@pytest.mark.parametrize("num_before", range(1, 9))
async def test_a_burst_up_to_the_limit_never_loses_the_link(bind: str, num_before: int) -> None:
    with (
        Peer(bind) as receiver,
        Peer("tcp://127.0.0.1:*", limits=WireLimits(max_queued=8)) as sender,
    ):
        for number in range(num_before):
            sender.say(receiver.hop, number)
            await receiver.hear()

        for number in range(8):
            sender.say(receiver.hop, number)

        assert [await receiver.hear() for _ in range(8)] == list(range(8))
        assert sender.lost.empty()


async def test_a_target_that_takes_nothing_more_is_lost(
    bare_socket: BareSocket, folder: Path
) -> None:
    deaf = bare_socket(zmq.PULL)
    deaf.set(zmq.RCVHWM, 1)
    deaf.bind(f"ipc://{folder}/deaf")
    message = attention_result([20_000], [1])
    with Peer("tcp://127.0.0.1:*", limits=WireLimits(max_queued=4)) as sender:
        sender.say(hop(endpoint=f"ipc://{folder}/deaf"), 0)
        assert await asyncio.to_thread(deaf.poll, 1000)

        for _ in range(20):
            sender.transport.send(hop(endpoint=f"ipc://{folder}/deaf"), message, term=Term(1))

        assert sender.lost.empty()
        assert await soon(sender.lost) == f"ipc://{folder}/deaf"


async def test_a_target_that_closes_is_lost_and_can_come_back(folder: Path) -> None:
    with Peer("tcp://127.0.0.1:*") as sender:
        with Peer(f"ipc://{folder}/inbox") as first:
            sender.say(first.hop, 1)
            assert await first.hear() == 1
        assert await soon(sender.lost) == first.hop.endpoint

        with Peer(f"ipc://{folder}/inbox") as second:
            sender.say(second.hop, 2)
            assert await second.hear() == 2

        assert await soon(sender.lost) == first.hop.endpoint
        assert sender.lost.empty()


@pytest.mark.slow
async def test_a_killed_process_is_lost_at_once(folder: Path) -> None:
    endpoint = f"ipc://{folder}/victim"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", LISTENER, endpoint, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    with Peer("tcp://127.0.0.1:*") as sender:
        sender.say(hop(endpoint=endpoint), 1)
        async with asyncio.timeout(WAIT_S):
            assert await process.stdout.readline() == b"heard\n"

        process.send_signal(signal.SIGKILL)

        assert await soon(sender.lost) == endpoint
    await process.communicate()


async def test_garbage_is_reported_and_the_inbox_lives(bare_socket: BareSocket, bind: str) -> None:
    with Peer(bind) as receiver, Peer("tcp://127.0.0.1:*") as sender:
        stranger = bare_socket(zmq.PUSH)
        stranger.connect(receiver.hop.endpoint)
        stranger.send_multipart([b"\xc1", b"", b"\x93"])

        error = await soon(receiver.rejected)
        sender.say(receiver.hop, 1)

        assert "not msgpack" in str(error)
        assert await receiver.hear() == 1


async def test_a_handler_that_raises_does_not_silence_the_inbox() -> None:
    loop = asyncio.get_running_loop()
    raised: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    receiver = Peer("tcp://127.0.0.1:*")

    def stumble(header: Header, message: Message) -> None:
        receiver.received.put_nowait((header, message))
        raise ValueError("a bug in a handler")

    endpoint = receiver.transport.open(
        stumble, receiver.rejected.put_nowait, receiver.lost.put_nowait
    )
    before = loop.get_exception_handler()
    loop.set_exception_handler(lambda _, raising: raised.put_nowait(raising))
    with Peer("tcp://127.0.0.1:*") as sender:
        for number in range(3):
            sender.say(hop(endpoint=endpoint), number)

        assert [await receiver.hear() for _ in range(3)] == [0, 1, 2]

    receiver.transport.close(0)
    loop.set_exception_handler(before)
    assert raised.qsize() == 3


async def test_a_flood_leaves_turns_for_others(bind: str) -> None:
    num_heard = 0
    heard_at_first_turn: list[int] = []
    all_heard = asyncio.Event()

    def count(header: Header, message: Message) -> None:
        nonlocal num_heard
        if not num_heard:
            asyncio.get_running_loop().call_soon(lambda: heard_at_first_turn.append(num_heard))
        num_heard += 1
        if num_heard == 500:
            all_heard.set()

    receiver = Peer(bind)
    endpoint = receiver.transport.open(count, receiver.rejected.put_nowait, lambda _: None)
    with Peer("tcp://127.0.0.1:*") as sender:
        for number in range(500):
            sender.say(hop(endpoint=endpoint), number)
        async with asyncio.timeout(WAIT_S):
            await all_heard.wait()

    receiver.transport.close(0)
    assert heard_at_first_turn[0] < 500


async def test_a_delay_is_kept(bind: str) -> None:
    loop = asyncio.get_running_loop()
    with Peer(bind) as receiver, Peer("tcp://127.0.0.1:*", distance=Distance(0.02)) as sender:
        start = loop.time()
        sender.say(receiver.hop, 1)
        sender.say(receiver.hop, 2)

        assert [await receiver.hear(), await receiver.hear()] == [1, 2]
        assert loop.time() - start > 0.015


async def test_a_lingering_close_still_delivers() -> None:
    with Peer("tcp://127.0.0.1:*") as receiver, Peer("tcp://127.0.0.1:*") as sender:
        sender.say(receiver.hop, 0)
        assert await receiver.hear() == 0
        for number in range(200):
            sender.say(receiver.hop, number)

        sender.transport.close(2.0)

        assert [await receiver.hear() for _ in range(200)] == list(range(200))


async def test_closing_leaves_no_thread_descriptor_or_socket_file(folder: Path) -> None:
    def left() -> tuple[list[threading.Thread], list[str], int, list[Path]]:
        tasks = [task.read_text() for task in Path("/proc/self/task").glob("*/comm")]
        return (
            threading.enumerate(),
            [name for name in tasks if name.startswith("ZMQ")],
            len([*Path("/proc/self/fd").iterdir()]),
            [*folder.iterdir()],
        )

    before = left()
    with Peer(f"ipc://{folder}/a") as receiver, Peer(f"ipc://{folder}/b") as sender:
        sender.say(receiver.hop, 1)
        sender.say(hop(endpoint=NOWHERE), 1)
        await receiver.hear()
    sender.transport.close(0)

    assert left() == before


@pytest.mark.parametrize(
    "endpoint",
    ["tcp://192.0.2.1:5555", "tcp://256.0.0.1:1", "ipc:///nonexistent/a", "ipc:///" + "a" * 200],
)
async def test_an_address_that_cannot_be_bound_is_refused_in_one_line(endpoint: str) -> None:
    peer = Peer(endpoint)
    peer.transport._locksmith = Locksmith(None, insecure=True)

    with pytest.raises(SettingsError, match="change the setting `bind`") as refused:
        peer.__enter__()

    assert "\n" not in str(refused.value)


async def test_an_address_in_use_is_refused(bind: str) -> None:
    with Peer(bind) as first:
        second = Peer(first.hop.endpoint)

        with pytest.raises(SettingsError, match="is in use"):
            second.__enter__()

        first.say(first.hop, 1)
        assert await first.hear() == 1


async def test_a_socket_file_of_a_dead_process_is_no_obstacle(
    folder: Path,
) -> None:
    path = folder / "inbox"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))

    with Peer(f"ipc://{path}") as peer:
        peer.say(peer.hop, 1)
        assert await peer.hear() == 1


async def test_the_chosen_port_is_told() -> None:
    with Peer("tcp://127.0.0.1:0") as peer:
        host, _, port = peer.hop.endpoint.rpartition(":")

        assert host == "tcp://127.0.0.1"
        assert int(port) > 0
