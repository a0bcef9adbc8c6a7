"""How a service becomes a process: threads, logs, a name and an epoch, signals, an exit code."""

import asyncio
import ctypes
import os
import secrets
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import structlog
import uvloop

from common.config import ServiceSettings
from common.errors import GlinthawkError, SettingsError
from common.ids import ROUTER_ID, Endpoint, Epoch, WorkerId
from common.log import set_up_logs
from common.runtime.loop import EXIT_ERROR, ServiceLoop
from common.wire.addresses import split_key

SWITCH_INTERVAL_S = 0.0005
"""The engine's thread must give the interpreter back this soon when the loop wants it."""

_SPINS = "1000"
"""Of a waiting OpenMP thread: as long as the pause between two operations of a visit, so that the
second thread need not be woken for each (2 threads, 64 rows: 646 against 380 GFLOP/s without), and
far too short to take a core from a neighbour."""
_PR_SET_PDEATHSIG = 1
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_LARGEST_MMAP_THRESHOLD = 32 * 2**20
_NEVER_TRIM = 2**31 - 1
_ALL_INTERFACES = ("0.0.0.0", "*", "[::]")

S = TypeVar("S", bound=ServiceSettings)


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who this process is for its peers."""

    worker_id: WorkerId
    epoch: Epoch


def run_service(build: Callable[[S, Identity], ServiceLoop], settings: S) -> int:
    """Live as a service until it ends.

    Args:
        build: Puts the service together, on the running event loop. It imports the engine itself:
            thread counts must be in the environment before torch is loaded.
        settings: The service's settings.

    Returns:
        The process's exit code.
    """
    set_thread_environment(settings.threads)
    keep_freed_memory()
    set_up_logs(settings.log_level, settings.log_format)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    if settings.die_with_parent:
        end_with_parent()
    identity = draw_identity(settings)
    structlog.contextvars.bind_contextvars(worker=identity.worker_id, epoch=identity.epoch)
    with one_line_errors():
        return uvloop.run(_live(build, settings, identity))


@contextmanager
def one_line_errors() -> Iterator[None]:
    """End the process with one line and exit code 2 when something was refused."""
    try:
        yield
    except GlinthawkError as error:
        sys.stderr.write(f"glinthawk: {error}\n")
        raise SystemExit(EXIT_ERROR) from None


def set_thread_environment(num_threads: int | None) -> None:
    """Tell the math libraries how many threads to use, and hardly to spin while they wait.

    Has no effect on a library that is already loaded, so call it before torch is imported.
    """
    os.environ |= {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": _SPINS, "KMP_BLOCKTIME": "0"}
    if num_threads is not None:
        os.environ |= {"OMP_NUM_THREADS": str(num_threads), "MKL_NUM_THREADS": str(num_threads)}


def keep_freed_memory() -> None:
    """Let glibc reuse large buffers instead of giving them back to the kernel each time.

    A step allocates and frees the same few megabytes; fresh pages cost more than the mathematics
    in them. What this alone gains was not measured.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):  # not every C library has it
        libc.mallopt(_M_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD)
        libc.mallopt(_M_TRIM_THRESHOLD, _NEVER_TRIM)


def end_with_parent() -> None:
    """Have the kernel send SIGTERM to this process when the thread that started it ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def draw_identity(settings: ServiceSettings) -> Identity:
    """Give this process its name, and an epoch that no life before it had."""
    epoch = Epoch(1 + secrets.randbits(48))  # 0 means none
    if settings.section == "router":
        return Identity(worker_id=ROUTER_ID, epoch=epoch)
    place = str(os.getpid() if settings.ordinal is None else settings.ordinal)
    own_host = socket.gethostname()
    if settings.ordinal is None and settings.host != own_host:
        place = f"{own_host}-{place}"  # in every container, the process id is the same
    role = settings.section.replace("_", "-")
    name = settings.worker_id or WorkerId(f"{settings.host}-{role}-{place}")
    return Identity(worker_id=name, epoch=epoch)


def advertised(bound: Endpoint, settings: ServiceSettings) -> Endpoint:
    """Give the address at which peers reach a bound inbox.

    Raises:
        SettingsError: The inbox is bound to all interfaces, no setting says which one peers see, and
            none leads to the router.
    """
    place, key = split_key(bound)
    host, _, port = place.removeprefix("tcp://").rpartition(":")
    if settings.advertise:
        seen = settings.advertise.replace(":*", f":{port}")
        return Endpoint(f"{seen}#{key}" if key else seen)
    if bound.startswith("tcp://") and host in _ALL_INTERFACES:
        seen = f"tcp://{_interface_towards(settings.router_endpoint)}:{port}"
        return Endpoint(f"{seen}#{key}" if key else seen)
    return bound


def _interface_towards(router: Endpoint) -> str:
    """Give the address that this machine has on its way to the router."""
    host, _, port = router.removeprefix("tcp://").rpartition(":")
    try:
        family, *_, address = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, socket.SOCK_DGRAM) as way:
            way.connect(address)  # sends nothing, only chooses an interface
            own = str(way.getsockname()[0])
    except OSError as error:
        raise SettingsError(
            f"which address is this machine's is not known, since none leads to {router}"
            f" ({error}): give --advertise tcp://<this machine>:*"
        ) from None
    return f"[{own}]" if family == socket.AF_INET6 else own


async def _live(
    build: Callable[[S, Identity], ServiceLoop], settings: S, identity: Identity
) -> int:
    service = build(settings, identity)
    with _stopped_by_signals(service):
        exit_code = await service.run()
    if service.engine_hangs:
        # The interpreter would wait for, or crash on, a thread that is inside a library.
        sys.stderr.flush()
        os._exit(exit_code)
    return exit_code


@contextmanager
def _stopped_by_signals(service: ServiceLoop) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGTERM, signal.SIGINT)
    for number in numbers:
        loop.add_signal_handler(number, service.request_stop)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_IGN)  # it ends already, and its exit code stands
