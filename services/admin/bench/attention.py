"""`glinthawk bench attention`: how near attention on the pages comes to the speed of memory.

The caches of several layers are visited in turn, at least 1 GiB of them, so that keys and values come
from memory and not from a processor's cache. After each pass memory is read in plain ways by as many
threads: what the bandwidth is differs from machine to machine, and on shared ones from minute to
minute, so only the ratio of the two means something.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from math import ceil
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from common.messages import Tensor
from services.admin.bench.attention_work import MIN_BYTES, AttentionWork
from services.admin.bench.vllm_attention import vllm_ms
from services.attention_worker.cache_shape import CacheShape
from services.attention_worker.engine import AttentionEngine, engine_type
from services.attention_worker.machine import Machine
from services.attention_worker.native_engine import NativeEngine

_BYTES_PER_GB = 1e9


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionFigures:
    """Medians over the passes."""

    work: AttentionWork
    kernel: str
    threads: int
    layer_ms: float
    spread: float
    """Between the slowest and the fastest pass, over the median."""
    kv_gb_per_s: float
    read_gb_per_s: float
    """The fastest of the plain ways."""
    fraction: float
    reads: Mapping[str, float]
    gflop_per_s: float
    compared: Mapping[str, float]
    """Milliseconds per layer of the same work done otherwise."""

    def write_json(self, out: TextIO) -> None:
        """Write one line."""
        out.write(json.dumps(asdict(self)) + "\n")

    def print(self, out: TextIO) -> None:
        """Write for people."""
        plain = ", ".join(f"{name} {speed:.1f}" for name, speed in self.reads.items())
        out.write(
            f"{self.kernel}, {self.threads} threads, {self.work.phase} of {self.work.batch} × "
            f"{self.work.context}: {self.layer_ms:.2f} ms per layer (spread {self.spread:.0%})\n"
            f"keys and values {self.kv_gb_per_s:.1f} GB/s of {self.read_gb_per_s:.1f} "
            f"({plain}): fraction {self.fraction:.2f}; {self.gflop_per_s:.0f} GFLOP/s\n"
        )
        for name, milliseconds in self.compared.items():
            times = milliseconds / self.layer_ms
            out.write(f"{name}: {milliseconds:.2f} ms, {times:.2f} times as long\n")


def bench_attention(
    work: AttentionWork,
    machine: Machine,
    *,
    num_runs: int,
    compare: bool,
    vllm_python: Path | None = None,
) -> AttentionFigures:
    """Measure one kind of work.

    Args:
        work: What is computed.
        machine: What it is computed with.
        num_runs: Passes over all layers; their median counts.
        compare: Do it in torch, too.
        vllm_python: An interpreter whose vLLM does it, too; with `compare` only.

    Raises:
        SettingsError: No model can ask for it, or vLLM does not run.
        PoolTooLarge: The caches do not fit into memory.
    """
    work.check()
    engine = make_engine(work, machine)
    step = partial(make_visit(work, engine), range(work.num_layers))
    layer_s: list[float] = []
    reads: dict[str, list[float]] = {}
    with ThreadPoolExecutor(machine.num_threads) as threads:
        ways = _plain_reads(engine, threads, machine.num_threads)
        step()
        for _ in range(num_runs):
            layer_s.append(_seconds(step) / work.num_layers)
            for name, (read, size_bytes) in ways.items():
                reads.setdefault(name, []).append(size_bytes / _seconds(read) / _BYTES_PER_GB)
    speeds = {name: median(each) for name, each in reads.items()}
    middle_s = median(layer_s)
    kv_speed = work.kv_bytes / middle_s / _BYTES_PER_GB
    return AttentionFigures(
        work=work,
        kernel=machine.kernel_path,
        threads=machine.num_threads,
        layer_ms=middle_s * 1e3,
        spread=(max(layer_s) - min(layer_s)) / middle_s,
        kv_gb_per_s=kv_speed,
        read_gb_per_s=max(speeds.values()),
        fraction=kv_speed / max(speeds.values()),
        reads=speeds,
        gflop_per_s=work.operations / middle_s / 1e9,
        compared=_compare(work, machine, num_runs, vllm_python) if compare else {},
    )


def make_engine(work: AttentionWork, machine: Machine) -> AttentionEngine:
    """Make an engine whose pages hold the work's caches."""
    shape = CacheShape(
        num_layers=work.num_layers,
        num_kv_heads=work.kv_heads,
        head_size=work.head_dim,
        page_size=work.page_size,
        dtype=work.kv_dtype,
    )
    num_pages = work.batch * ceil(work.context / work.page_size)
    windows = (None,) * work.num_layers
    return engine_type(machine)(machine, shape, num_pages, work.q_heads, windows)


def make_visit(work: AttentionWork, engine: AttentionEngine) -> Callable[[Iterable[int]], None]:
    """Make a visit to layers. Pages lie anywhere in the pool, as they do after a while."""
    draw = np.random.default_rng(0)
    pages_each, rows = ceil(work.context / work.page_size), work.num_rows
    num_prompt = work.context if work.phase == "prefill" else 0
    entry = (0, work.context - rows, rows, pages_each, num_prompt, 0)
    entries = np.array([entry] * work.batch, np.int32)
    page_table = draw.permutation(work.batch * pages_each).astype(np.int32)
    width = (work.q_heads + 2 * work.kv_heads) * work.head_dim
    numbers = draw.standard_normal((work.batch * rows, width), np.float32)
    # numpy has no bf16, which is the upper half of a float32.
    halves = numbers.view(np.uint16)[:, 1::2].copy()
    qkv = Tensor(dtype="bf16", shape=numbers.shape, memory=halves.view(np.uint8).reshape(-1).data)

    def visit(layers: Iterable[int]) -> None:
        for layer in layers:
            engine.attend(layer, entries, page_table, qkv)

    return visit


def _plain_reads(
    engine: AttentionEngine, threads: ThreadPoolExecutor, num_threads: int
) -> Mapping[str, tuple[Callable[[], Any], int]]:
    """List plain ways to read memory, each with the bytes that it reads."""
    source = np.ones(MIN_BYTES // 8, np.int64)
    target = np.ones_like(source)

    def each_part(work: Callable[[NDArray[np.int64], NDArray[np.int64]], Any]) -> None:
        parts = zip(*(np.array_split(each, num_threads) for each in (source, target)), strict=True)
        list(threads.map(lambda part: work(*part), parts))

    ways: dict[str, tuple[Callable[[], Any], int]] = {
        "numpy_sum": (lambda: each_part(lambda part, _: part.sum()), MIN_BYTES),
        # A copy reads and writes: twice its size, and half of that counts.
        "half_memcpy": (lambda: each_part(lambda part, to: np.copyto(to, part)), MIN_BYTES),
    }
    if isinstance(engine, NativeEngine):
        ways["loop"] = (engine.read, engine.size_bytes)
    return ways


def _seconds(work: Callable[[], Any]) -> float:
    started_s = perf_counter()
    work()
    return perf_counter() - started_s


def _compare(
    work: AttentionWork, machine: Machine, num_runs: int, vllm_python: Path | None
) -> dict[str, float]:
    from services.admin.bench.torch_attention import other_ways

    times = {}
    for name, layers in other_ways(work, machine.num_threads).items():
        layers[-1]()
        times[name] = median(_seconds(layer) for _ in range(num_runs) for layer in layers) * 1e3
    if vllm_python:
        times["vllm"] = vllm_ms(vllm_python, work, machine.num_threads, num_runs)
    return times
