"""A whole cluster as processes of this machine: started, watched, and stopped with the command."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

from common.errors import GlinthawkError
from common.ids import Endpoint
from services.admin.client import RouterClient

_KV_MEMORY_SHARE = 0.5
_START_TIMEOUT_S = 300.0
_STOP_TIMEOUT_S = 15.0
_FINISH_TIMEOUT_S = 1.0
"""For workers whose router stops with them: what is under way is for nobody."""
_POLL_S = 0.05
_LAST_LINES = 5
MAX_RESTARTS = 5


class ClusterFailed(GlinthawkError):
    """A process of the local cluster ended when it should not; nothing is left running."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Devices:
    """Where the layer workers compute."""

    names: tuple[str, ...] = ()
    """Of each layer worker; none means that each decides for itself."""
    kv_bytes: int = 0
    """Memory of each that an attention worker beside the layer worker takes; 0 means no such worker."""

    @property
    def with_pages(self) -> tuple[str, ...]:
        """Those that hold keys and values, too."""
        return self.names if self.kv_bytes else ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterPlan:
    """What a local cluster is made of."""

    layer_workers: int
    attention_workers: int
    router: Mapping[str, Any]
    """Options of the router by name, without its addresses; None is left out."""
    layer: Mapping[str, Any] = field(default_factory=dict)
    """Options of every layer worker."""
    attention: Mapping[str, Any] = field(default_factory=dict)
    """Options of every attention worker."""
    devices: Devices = Devices()
    shared: Mapping[str, Any] = field(default_factory=dict)
    """Options of every process."""
    threads: int | None = None
    """Per worker; by default the cores are shared out within each tier."""
    bind: Endpoint | None = None
    """Where the router listens for workers of other machines; by default there are none. The
    cluster's own workers listen on the same interface."""
    http_port: int = 0
    """0 takes a free one."""
    max_restarts: int = MAX_RESTARTS
    """A process that ends more often than this will not do better."""
    logs_to_terminal: bool = False
    """Let every process log to stderr here instead of to a file that goes with the cluster."""

    def threads_per_worker(self) -> int:
        """Share this machine's cores out: the tiers take turns, the workers of one tier do not."""
        cores = len(os.sched_getaffinity(0))
        return self.threads or max(1, cores // max(self.layer_workers, self.attention_workers))


@dataclass(slots=True)
class _Child:
    name: str
    command: list[str]
    log: Path
    process: subprocess.Popen[bytes]
    num_restarts: int = 0


class LocalCluster:
    """The processes of one cluster; as a context manager it leaves nothing behind."""

    def __init__(self, plan: ClusterPlan) -> None:
        self._plan = plan
        self.directory = Path(tempfile.mkdtemp(prefix="glinthawk-"))
        self._children: list[_Child] = []
        self.url = ""
        """Of the router; known once it is ready."""

    def __enter__(self) -> Self:
        """Start every process; the cluster may not be ready yet."""
        try:
            for name, command in self.commands():
                self._children.append(self._start(name, command))
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop every process and remove the cluster's directory."""
        self.stop()

    def wait_until_ready(self) -> RouterClient:
        """Wait until every layer, the KV manager and the attention workers are there.

        Raises:
            ClusterFailed: A process ended, or it takes too long.
        """
        give_up_at = time.monotonic() + _START_TIMEOUT_S
        client: RouterClient | None = None
        while client is None or not client.is_ready():
            self.check()
            if time.monotonic() > give_up_at:
                missing = client.status()["missing"] if client else ["the router"]
                raise ClusterFailed(
                    f"the cluster still waits for {', '.join(missing)} after "
                    f"{_START_TIMEOUT_S:.0f} s: `glinthawk up` shows what every process says"
                )
            time.sleep(_POLL_S)
            client = client or self._connect()
        return client

    def _connect(self) -> RouterClient | None:
        path = self.directory / "http-port"
        if not path.exists() or not (port := path.read_text().strip()):
            return None
        self.url = f"http://127.0.0.1:{port}"
        # A router that is started again keeps the port; of two equal options the last one counts.
        self._children[0].command.extend(("--http-port", port))
        return RouterClient(self.url)

    def check(self) -> None:
        """See that every process lives.

        Raises:
            ClusterFailed: One does not; its last words are the message.
        """
        for child in self._children:
            if (exit_code := child.process.poll()) is not None:
                raise ClusterFailed(_last_words(child, exit_code))

    def restart_dead(self) -> list[str]:
        """Start processes again that have ended, unless they were told to.

        Returns:
            The last words of each of them.

        Raises:
            ClusterFailed: One of them ends again and again.
        """
        restarted = []
        for child in self._children.copy():
            if (exit_code := child.process.poll()) is None:
                continue
            if exit_code == 0:  # it was drained
                self._children.remove(child)
                continue
            if child.num_restarts == self._plan.max_restarts:
                raise ClusterFailed(_last_words(child, exit_code))
            child.num_restarts += 1
            child.process = self._start(child.name, child.command).process
            restarted.append(_last_words(child, exit_code))
        return restarted

    def processes(self) -> dict[str, int]:
        """Give the process id of every process, by name."""
        return {child.name: child.process.pid for child in self._children}

    def stop(self) -> None:
        """Stop every process and remove the directory; again does nothing.

        The router first: what is in flight comes home while the workers are still there.
        """
        try:
            for children in (self._children[:1], self._children[1:]):
                _end(children)
        finally:  # also when a second Ctrl-C cuts the waiting short
            for child in self._children:
                child.process.kill()
                child.process.wait()
            self._children.clear()
            shutil.rmtree(self.directory, ignore_errors=True)

    def commands(self) -> Sequence[tuple[str, list[str]]]:
        """Give the command line of every process by name, in the order they are started."""
        plan, directory = self._plan, self.directory
        router = {
            "data_directory": directory / "data",
            **plan.shared,
            **plan.router,
            "bind": plan.bind or f"ipc://{directory}/router",
            "http_port": plan.http_port,
            "http_port_file": directory / "http-port",
            "layer_workers": plan.layer_workers,
            "attention_workers": plan.attention_workers + len(plan.devices.with_pages),
        }
        finish = {"stop_timeout_s": _FINISH_TIMEOUT_S}
        worker = {**plan.shared, "router_endpoint": router["bind"], **finish}
        engine = {**worker, "threads": plan.threads_per_worker()}
        layer = {**engine, "model": plan.router["model"], **plan.layer}
        # All of them look at the same free memory when they start.
        share = {"kv_memory_share": _KV_MEMORY_SHARE / max(1, plan.attention_workers)}
        attention = {**engine, **share, **plan.attention}
        layers = [
            layer | ({"device": plan.devices.names[index]} if plan.devices.names else {})
            for index in range(plan.layer_workers)
        ]
        beside = {"kv_memory": plan.devices.kv_bytes, "kv_memory_share": None}
        attentions = [
            *[attention] * plan.attention_workers,
            *(attention | beside | {"device": name} for name in plan.devices.with_pages),
        ]
        return [
            ("router", _command("router", router)),
            ("kv-manager", self._worker("kv_manager", "kv-manager", worker)),
            *self._numbered("layer_worker", layers),
            *self._numbered("attention_worker", attentions),
        ]

    def _numbered(
        self, service: str, workers: Sequence[Mapping[str, Any]]
    ) -> Iterator[tuple[str, list[str]]]:
        for ordinal, options in enumerate(workers):
            name = f"{service.replace('_', '-')}-{ordinal}"
            yield name, self._worker(service, name, {**options, "ordinal": ordinal})

    def _worker(self, service: str, name: str, options: Mapping[str, Any]) -> list[str]:
        own = {"bind": self._inbox(name), "worker_id": name}
        if options.get("compute") == "emulated":
            own["host"] = name  # each stands for a machine, and so shares no cores
        return _command(service, {**options, **own})

    def _inbox(self, name: str) -> str:
        bind = self._plan.bind
        return f"{bind.rpartition(':')[0]}:*" if bind else f"ipc://{self.directory}/{name}"

    def _start(self, name: str, command: list[str]) -> _Child:
        log = self.directory / f"{name}.log"
        with log.open("a") as file:
            stderr: TextIO | None = None if self._plan.logs_to_terminal else file
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stderr=stderr,
                # Ctrl-C is for the command; it stops its processes in order.
                start_new_session=True,
            )
        return _Child(name, command, log, process)


def _command(service: str, options: Mapping[str, Any]) -> list[str]:
    words = [sys.executable, "-m", f"services.{service}", "--die-with-parent"]
    for name, value in options.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        elif value is not None:
            words += [f"--{flag}", str(value)]
    return words


def _end(children: Sequence[_Child]) -> None:
    """Ask processes to end, and give them some time for it."""
    for child in children:
        child.process.terminate()
    give_up_at = time.monotonic() + _STOP_TIMEOUT_S
    for child in children:
        with suppress(subprocess.TimeoutExpired):
            child.process.wait(max(0.0, give_up_at - time.monotonic()))


def _last_words(child: _Child, exit_code: int) -> str:
    """Say how a process ended and why, as far as its log tells; logs on the terminal were seen."""
    if exit_code < 0:
        return f"{child.name} was ended by {signal.Signals(-exit_code).name}"
    lines = child.log.read_text(errors="replace").splitlines()
    own = [line.removeprefix("glinthawk: ") for line in lines if line.startswith("glinthawk: ")]
    said = own[-1:] or lines[-_LAST_LINES:]
    return f"{child.name} ended with exit code {exit_code}" + "".join(f": {line}" for line in said)
