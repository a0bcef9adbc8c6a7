"""`glinthawk doctor`: what of this machine stands in the way, and what to do about it."""

import os
import resource
import socket
import time
from collections.abc import Collection, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Final, Literal

from common.checkpoint_header import read_headers
from common.errors import GlinthawkError
from common.model_spec import read_model_spec, resolve_model
from services.admin.client import RouterClient
from services.attention_worker import native_library
from services.attention_worker.cache_shape import CacheShape
from services.attention_worker.config import AttentionWorkerSettings
from services.attention_worker.host import Host
from services.attention_worker.machine import find_machine
from services.attention_worker.memory import free_memory_bytes

_FEATURES: Final = ("avx2", "fma", "f16c", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16")
_PORTS: Final = {7400: "router's inbox", 8000: "HTTP API"}
_MIN_FILES: Final = 4096
_MIN_BYTES: Final = 2 << 30
_MAX_SKEW_S: Final = 2.0
_PAGE_SIZE: Final = 64
_GIB: Final = 1 << 30


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    about: str
    verdict: Literal["ok", "warn", "bad"]
    found: str
    advice: str = ""
    """What to do, if something is wrong."""


def examine(
    model: str | None = None, url: str | None = None, root: Path = Path("/")
) -> list[Finding]:
    """Look at everything; nothing is changed.

    Args:
        model: A checkpoint that is to fit, or None.
        url: A router whose clock is compared, or None.
        root: Where `proc` and `sys` are.
    """
    host = Host.read(root)
    findings = [
        _processor(root),
        _kernel(),
        _threads(root),
        _nodes(host),
        _memory(root),
        _huge_pages(host),
        _open_files(),
        *(_port(port, use) for port, use in _PORTS.items()),
    ]
    if url is not None:
        findings.append(_clock(url))
    if model is not None:
        findings.append(_model(model, root))
    return findings


def as_rows(findings: list[Finding]) -> list[dict[str, str]]:
    """Give findings for JSON."""
    return [asdict(finding) for finding in findings]


def _processor(root: Path) -> Finding:
    try:
        text = (root / "proc/cpuinfo").read_text()
    except OSError:
        text = ""
    flags = next((line for line in text.splitlines() if line.startswith("flags")), "").split()
    has = [feature for feature in _FEATURES if feature in flags]
    if "avx2" in has:
        return Finding("processor", "ok", " ".join(has))
    advice = "attention runs the portable kernel, several times slower: take a processor with AVX2"
    return Finding("processor", "warn", "no AVX2", advice)


def _kernel() -> Finding:
    chosen = find_machine(AttentionWorkerSettings()).instruction_set
    if native_library.load() is None:
        advice = (
            "install g++ and install this package again: attention becomes several times faster"
        )
        return Finding("attention kernel", "warn", "not built; torch computes", advice)
    return Finding("attention kernel", "ok", f"native, {chosen}")


def _threads(root: Path) -> Finding:
    cpus = len(os.sched_getaffinity(0))
    quota = _quota(root)
    found = f"{cpus} CPUs"
    if quota is not None and quota < cpus:
        advice = f"give --threads {max(1, int(quota))}, or pin the container to whole CPUs"
        return Finding("threads", "warn", f"{found}, but time for {quota:g} of them", advice)
    return Finding("threads", "ok", found)


def _quota(root: Path) -> float | None:
    """Give the CPUs' worth of time that this container may use; None without a limit."""
    try:
        limit, period = (root / "sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        return None
    return None if limit == "max" else int(limit) / int(period)


def _nodes(host: Host) -> Finding:
    """See that a process's CPUs and its memory are of one NUMA node."""
    mine = set(host.nodes_of(host.cpus))
    if len(host.nodes) <= 1:
        return Finding("NUMA", "ok", "one node")
    found = f"{len(host.nodes)} nodes, this process runs on {_joined(mine)}"
    if len(mine) > 1:
        advice = (
            "start one attention worker per node: numactl --cpunodebind=N --membind=N glinthawk "
            "attention-worker --pin-threads"
        )
        return Finding("NUMA", "warn", found, advice)
    memory, advice = host.memory_nodes, f"bind memory to them: numactl --membind={_joined(mine)}"
    if memory and not mine <= memory:
        return Finding("NUMA", "bad", f"{found}, its memory on {_joined(memory)}", advice)
    if host.memory_policy.startswith("interleave"):
        return Finding("NUMA", "warn", f"{found}, {host.memory_policy}", advice)
    return Finding("NUMA", "ok", found)


def _joined(numbers: Collection[int]) -> str:
    return ",".join(map(str, sorted(numbers)))


def _memory(root: Path) -> Finding:
    free = free_memory_bytes(root)
    found = f"{free / _GIB:.1f} GiB free here"
    if free < _MIN_BYTES:
        return Finding("memory", "warn", found, "free some, or raise the container's limit")
    return Finding("memory", "ok", found)


def _huge_pages(host: Host) -> Finding:
    if host.huge_pages in ("always", "madvise"):
        return Finding("huge pages", "ok", host.huge_pages)
    advice = "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled"
    return Finding("huge pages", "warn", host.huge_pages, advice)


def _open_files() -> Finding:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < _MIN_FILES:
        advice = f"ulimit -n {_MIN_FILES} (up to {hard} here): each link and each call takes one"
        return Finding("open files", "warn", f"{soft} at most", advice)
    return Finding("open files", "ok", f"{soft} at most")


def _port(port: int, use: str) -> Finding:
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        advice = "fine if that is Glinthawk; otherwise give another port"
        return Finding(f"port {port}", "warn", f"in use ({use})", advice)
    return Finding(f"port {port}", "ok", f"free ({use})")


def _clock(url: str) -> Finding:
    try:
        with closing(RouterClient(url)) as client:
            there = client.request("GET", "/livez").headers["date"]
    except (GlinthawkError, KeyError) as error:
        return Finding("clock", "warn", f"not compared: {error}", "is the router up, at this URL?")
    skew_s = abs(parsedate_to_datetime(there).timestamp() - time.time())
    if skew_s > _MAX_SKEW_S:
        advice = "let both machines keep time by NTP: traces are aligned by the clock"
        return Finding("clock", "warn", f"{skew_s:.0f} s off the router's", advice)
    return Finding("clock", "ok", "as the router's")


def _model(model: str, root: Path) -> Finding:
    """See that weights and the pages of one longest request fit into this machine together."""
    try:
        directory = resolve_model(model)
        spec = read_model_spec(directory)
        files = {header.file for header in read_headers(directory).values()}
    except GlinthawkError as error:
        return Finding("model", "bad", str(error), "give a checkpoint that is served")
    weights = sum(file.stat().st_size for file in files)
    page = CacheShape(
        num_layers=spec.num_layers,
        num_kv_heads=spec.num_kv_heads,
        head_size=spec.head_size,
        page_size=_PAGE_SIZE,
        dtype=spec.dtype,
    )
    request = -(-spec.max_model_len // _PAGE_SIZE) * page.bytes_per_page
    free = free_memory_bytes(root)
    found = (
        f"{weights / _GIB:.2f} GiB of weights, {request / _GIB:.2f} GiB of keys and values for a "
        f"request of {spec.max_model_len} tokens, {free / _GIB:.1f} GiB free"
    )
    if weights + request > free:
        advice = (
            "give --max-model-len or --kv-cache-dtype int8, or put the tiers on several machines"
        )
        return Finding("model", "bad", found, advice)
    return Finding("model", "ok", found)


def verdicts(findings: list[Finding]) -> Iterator[str]:
    """Give a line per finding, for people."""
    width = max(len(finding.about) for finding in findings)
    for finding in findings:
        line = f"{finding.verdict:4}  {finding.about.ljust(width)}  {finding.found}"
        yield f"{line}\n      {' ' * width}  → {finding.advice}" if finding.advice else line
