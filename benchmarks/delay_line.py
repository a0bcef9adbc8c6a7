"""A line between two network namespaces that takes its time: a delay each way, and a rate.

    python -m benchmarks.delay_line near far --one-way-ms 12.5 --rate-mbit 200

It is the device `line0` of both, which the caller gives addresses. Needs root and `/dev/net/tun`. For
kernels without netem, which is the better tool where there is one; this takes a few per cent of a core.
"""

import ctypes
import os
import queue
import signal
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fcntl import ioctl
from threading import Thread
from typing import Final

import typer

DEVICE: Final = "line0"

_CLONE_NEWNET: Final = 0x40000000
_TUNSETIFF: Final = 0x400454CA
_IFF_TUN, _IFF_NO_PI = 0x0001, 0x1000
_MAX_PACKET_BYTES: Final = 65535
_MAX_QUEUED: Final = 4096
"""Packets under way in one direction; more are dropped, as a router would."""


@contextmanager
def inside(namespace: str) -> Iterator[None]:
    """Let this thread, and the processes that it starts, be in a network namespace for a while."""
    with open("/proc/thread-self/ns/net") as home, open(f"/run/netns/{namespace}") as there:
        _enter(there.fileno())
        try:
            yield
        finally:
            _enter(home.fileno())


def main(near: str, far: str, one_way_ms: float = 0.0, rate_mbit: float = 0.0) -> None:
    """Carry packets between two namespaces until SIGTERM; says `up` when it does. Rate 0: no limit."""
    ends = _open_device(near), _open_device(far)
    for source, target in (ends, ends[::-1]):
        Direction(source, target, one_way_ms / 1e3, rate_mbit * 1e6 / 8).start()
    print("up", flush=True)
    signal.pause()


class Direction:
    """One way of the line."""

    def __init__(self, source: int, target: int, delay_s: float, bytes_per_s: float) -> None:
        """Take two devices; nothing travels before `start`."""
        self._source, self._target = source, target
        self._delay_s, self._bytes_per_s = delay_s, bytes_per_s
        self._under_way: queue.Queue[tuple[float, bytes]] = queue.Queue(_MAX_QUEUED)

    def start(self) -> None:
        """Carry packets for as long as the process lives."""
        for work in (self._take, self._hand_over):
            Thread(target=work, daemon=True).start()

    def _take(self) -> None:
        while True:
            packet = os.read(self._source, _MAX_PACKET_BYTES)
            with suppress(queue.Full):
                self._under_way.put_nowait((time.monotonic(), packet))

    def _hand_over(self) -> None:
        free_s = 0.0
        while True:
            taken_s, packet = self._under_way.get()
            free_s = max(taken_s, free_s)
            if self._bytes_per_s:
                free_s += len(packet) / self._bytes_per_s
            time.sleep(max(0.0, free_s + self._delay_s - time.monotonic()))
            with suppress(OSError):  # the other end is down: nobody takes it
                os.write(self._target, packet)


def _open_device(namespace: str) -> int:
    with inside(namespace):
        device = os.open("/dev/net/tun", os.O_RDWR)
        ioctl(device, _TUNSETIFF, struct.pack("16sH22x", DEVICE.encode(), _IFF_TUN | _IFF_NO_PI))
    return device


def _enter(namespace: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)  # Python has setns from 3.12 on
    if libc.setns(namespace, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "this namespace cannot be entered: it takes root")


if __name__ == "__main__":
    typer.run(main)
