"""Rates of attention on this machine: the attention worker's own engine over a grid, and a fit."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from math import ceil
from statistics import median
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from common.messages.tensor import DTYPE_BYTES
from common.model_spec import ModelSpec
from common.policy.profile import AttentionPoint, AttentionTimes
from services.admin.bench.attention import make_engine, make_visit
from services.admin.bench.attention_work import AttentionWork
from services.attention_worker.machine import Machine

_BATCHES = (1, 4, 16, 64)
_CONTEXTS = (48, 240, 1008, 4080)
"""None ends with a page: the masked end of the last one takes its time."""
_CHUNKS = ((32, 32), (128, 128), (256, 256), (64, 1024), (256, 1024))
"""(rows, context) of a prompt's chunk."""
_LONGEST_S = 0.05
"""Of one layer: no larger batch or context is measured beyond it."""
_NUM_RUNS = 5
_MAX_LAYERS = 4096
"""Of a run: a small model's caches are so small that a gigabyte has a hundred thousand of them."""
_SHORTEST_S = 1e-15


@dataclass(frozen=True, slots=True)
class Grid:
    """What attention is measured for."""

    spec: ModelSpec
    kv_dtype: str
    """Of keys and values."""
    page_size: int
    max_context: int

    def works(self) -> Iterator[AttentionWork]:
        """Give the points, smaller ones before larger ones of the same kind."""
        decode = [("decode", batch, context, 1) for batch in _BATCHES for context in _CONTEXTS]
        prefill = [("prefill", 1, context, chunk) for chunk, context in _CHUNKS]
        longest = min(self.max_context, self.spec.max_model_len)
        for phase, batch, context, chunk in (*decode, *prefill):
            if context <= longest:
                yield AttentionWork(
                    phase="decode" if phase == "decode" else "prefill",
                    batch=batch,
                    context=context,
                    chunk=chunk,
                    q_heads=self.spec.num_heads,
                    kv_heads=self.spec.num_kv_heads,
                    head_dim=self.spec.head_size,
                    kv_dtype=self.kv_dtype,
                    page_size=self.page_size,
                )


def measure_attention(
    grid: Grid, machine: Machine, say: Callable[[str], None]
) -> tuple[AttentionTimes, tuple[AttentionPoint, ...]]:
    """Measure decode and prefill, and fit the rates that emulation and planning go by.

    Args:
        grid: What is to be measured.
        machine: To compute with.
        say: Told each result.

    Raises:
        PoolTooLarge: The caches do not fit into memory.
    """
    points: list[AttentionPoint] = []
    for work in grid.works():
        slower = [p for p in points if p.entries <= work.batch and p.context <= work.context]
        if any(point.p50_s > _LONGEST_S for point in slower if point.rows == work.num_rows):
            continue
        point = _measure(work, machine)
        say(
            f"attention: {point.entries} x {point.rows} rows of {point.context} tokens, "
            f"{1000 * point.p50_s:.2f} ms per layer"
        )
        points.append(point)
    return fit(points, grid), tuple(points)


def _measure(work: AttentionWork, machine: Machine) -> AttentionPoint:
    visit = make_visit(work, make_engine(work, machine))
    # One run goes on where the one before ended, so that no cache has what it reads.
    layers, num_layers = cycle(range(work.num_layers)), min(work.num_layers, _MAX_LAYERS)
    visit(islice(layers, num_layers))  # warms up
    seconds = []
    for _ in range(_NUM_RUNS):
        started_s = perf_counter()
        visit(islice(layers, num_layers))
        seconds.append((perf_counter() - started_s) / num_layers)
    return AttentionPoint(
        entries=work.batch,
        rows=work.num_rows,
        context=work.context,
        p50_s=median(seconds),
        p90_s=float(np.percentile(seconds, 90)),
    )


def fit(points: Sequence[AttentionPoint], grid: Grid) -> AttentionTimes:
    """Fit rates to measurements, each weighed by its own size.

    Generated positions give what a shard, an entry and a byte take; prompts give the arithmetic.
    Both kernels read whole pages.
    """
    spec, page_size = grid.spec, grid.page_size
    decode = [point for point in points if point.rows == 1]
    seconds = np.array([point.p50_s for point in decode])  # [P]
    kv_bytes = 2 * spec.kv_size * DTYPE_BYTES[grid.kv_dtype]
    costs = np.array(
        [
            (1.0, p.entries, p.entries * ceil(p.context / page_size) * page_size * kv_bytes)
            for p in decode
        ]
    )  # [P, 3]
    scale = costs.max(axis=0)
    weighed = costs / scale / seconds[:, None]
    overhead_s, entry_s, byte_s = (_not_negative(weighed) / scale).tolist()
    chunks = [point for point in points if point.rows > 1]
    chunk_s = np.array([point.p50_s for point in chunks])  # [Q]
    fixed_s = overhead_s + entry_s
    work = np.array([(point.rows - 1, _flops(point, spec)) for point in chunks])  # [Q, 2]
    scale = work.max(axis=0)
    weighed = work / scale / np.maximum(chunk_s - fixed_s, chunk_s / 10)[:, None]
    row_s, flop_s = (_not_negative(weighed) / scale).tolist()
    return AttentionTimes(
        kv_bytes_per_s=1 / max(byte_s, _SHORTEST_S),
        flops_per_s=1 / max(flop_s, _SHORTEST_S),
        overhead_s=overhead_s,
        entry_s=entry_s,
        row_s=row_s,
        block_tokens=page_size,
    )


def _flops(point: AttentionPoint, spec: ModelSpec) -> float:
    """Count a chunk's: each position seen is one product with the query and one with the value."""
    seen = point.rows * (point.context - (point.rows - 1) / 2)
    return 4 * spec.query_size * seen


def _not_negative(costs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Find what columns cost so that every row comes to one, nearly, and nothing costs less than 0.

    Shapes:
        costs: [P, C] -> [C]
    """
    found = np.zeros(costs.shape[1])
    kept = np.arange(costs.shape[1])
    while len(kept):
        solution = np.linalg.lstsq(costs[:, kept], np.ones(len(costs)), rcond=None)[0]
        if (solution >= 0).all():
            found[kept] = solution
            break
        kept = kept[solution >= 0]
    return found
