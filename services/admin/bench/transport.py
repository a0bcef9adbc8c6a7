"""`glinthawk bench transport`: what a message of a step costs the loops at both of its ends.

Processor time of the one thread that runs Python, not the clock: what libzmq's own threads copy is not
in it, and other processes hardly disturb it. A message goes from one transport to another over `ipc`,
one at a time, as in a cluster with one microbatch in flight.
"""

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, TextIO

import uvloop

from common.ids import Endpoint, Epoch, Term, WorkerId
from common.messages import Hop, Message
from common.wire.codec import Header, decode, encode
from common.wire.limits import WireLimits
from common.wire.transport import Transport
from services.admin.bench.step_messages import StepSize, step_messages

_TERM, _EPOCH = Term(1), Epoch(7)
_SENDER, _RECEIVER = WorkerId("sender"), WorkerId("receiver")
_WARM_UP = 50
_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageCost:
    """Microseconds of the loop's thread for one message: medians."""

    tag: str
    tensor_bytes: int
    encode_us: float
    decode_us: float
    send_us: float
    """Encoding included."""
    receive_us: float
    """Decoding, and the wake-up of the loop, included."""


def bench_transport(size: StepSize, num_messages: int) -> list[MessageCost]:
    """Measure every message of a step.

    Args:
        size: How large the messages are.
        num_messages: Of each kind.
    """
    return [_measure(message, num_messages) for message in step_messages(size)]


def print_costs(costs: list[MessageCost], out: TextIO, *, as_json: bool) -> None:
    """Write the figures, for a person or as one line."""
    if as_json:
        out.write(json.dumps([asdict(cost) for cost in costs]) + "\n")
        return
    out.write(f"{'us of processor time':<20}{'bytes':>10}  encode  decode    send  receive\n")
    for cost in costs:
        out.write(
            f"{cost.tag:<20}{cost.tensor_bytes:>10}{cost.encode_us:>8.1f}{cost.decode_us:>8.1f}"
            f"{cost.send_us:>8.1f}{cost.receive_us:>9.1f}\n"
        )


def _measure(message: Message, num_messages: int) -> MessageCost:
    header = Header(term=_TERM, sender=_SENDER, sender_epoch=_EPOCH, receiver_epoch=_EPOCH)
    frames = [memoryview(bytes(frame)) for frame in encode(message, header)]
    send_us, receive_us = uvloop.run(_carry(message, num_messages))
    return MessageCost(
        tag=message.TAG,
        tensor_bytes=sum(frame.nbytes for frame in frames[1:]),
        encode_us=_each_us(lambda: encode(message, header), num_messages),
        decode_us=_each_us(lambda: decode(frames, WireLimits()), num_messages),
        send_us=send_us,
        receive_us=receive_us,
    )


def _each_us(call: Callable[[], Any], num_calls: int) -> float:
    durations = []
    for _ in range(_WARM_UP + num_calls):
        started_s = time.thread_time()
        call()
        durations.append(time.thread_time() - started_s)
    return 1e6 * median(durations[_WARM_UP:])


async def _carry(message: Message, num_messages: int) -> tuple[float, float]:
    """Send a message many times; gives the microseconds of sending and of receiving one."""
    arrived = asyncio.Event()
    with TemporaryDirectory(prefix="glinthawk-bench-") as folder:
        sender, receiver = (_transport(Path(folder), name) for name in (_SENDER, _RECEIVER))
        try:
            sender.open(lambda *_: None, _refuse, lambda *_: None)
            endpoint = receiver.open(lambda *_: arrived.set(), _refuse, lambda *_: None)
            to = Hop(worker_id=_RECEIVER, endpoint=endpoint, epoch=_EPOCH)
            async with asyncio.timeout(_TIMEOUT_S):
                costs = [
                    await _carry_one(sender, to, message, arrived)
                    for _ in range(_WARM_UP + num_messages)
                ][_WARM_UP:]
        finally:
            sender.close(0)
            receiver.close(0)
    return 1e6 * median(sent for sent, _ in costs), 1e6 * median(taken for _, taken in costs)


async def _carry_one(
    sender: Transport, to: Hop, message: Message, arrived: asyncio.Event
) -> tuple[float, float]:
    arrived.clear()
    started_s = time.thread_time()
    sender.send(to, message, term=_TERM)
    sent_s = time.thread_time()
    await arrived.wait()
    return sent_s - started_s, time.thread_time() - sent_s


def _refuse(error: Exception) -> None:
    raise error


def _transport(folder: Path, name: WorkerId) -> Transport:
    return Transport(
        bind=Endpoint(f"ipc://{folder}/{name}"),
        worker_id=name,
        epoch=_EPOCH,
        limits=WireLimits(),
    )
