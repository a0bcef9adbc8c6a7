"""Rates of attention on this machine: the attention worker's own engine over a grid, and a fit."""

from collections.abc import Iterator
from statistics import median
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from common.messages.tensor import DTYPE_BYTES
from common.model_spec import ModelSpec
from common.policy.profile import AttentionPoint, AttentionTimes
from services.admin.bench.attention import make_engine, make_step
from services.admin.bench.attention_work import AttentionWork
from services.attention_worker.machine import Machine

_BATCHES = (1, 4, 16, 64)
_CONTEXTS = (64, 256, 1024, 4096)
_CHUNKS = ((32, 32), (128, 128), (256, 256), (64, 1024), (256, 1024))
"""(rows, context) of a prompt's chunk."""
_LONGEST_S = 0.05
"""Of one layer: no larger batch or context is measured beyond it."""
_NUM_RUNS = 5
_SHORTEST_S = 1e-15


def measure_attention(
    spec: ModelSpec, kv_dtype: str, page_size: int, machine: Machine
) -> tuple[AttentionTimes, tuple[AttentionPoint, ...]]:
    """Measure decode and prefill, and fit the rates that emulation and planning go by.

    Raises:
        PoolTooLarge: The caches do not fit into memory.
    """
    points: list[AttentionPoint] = []
    for work in _grid(spec, kv_dtype, page_size):
        slower = [p for p in points if p.entries <= work.batch and p.context <= work.context]
        if any(point.p50_s > _LONGEST_S for point in slower if point.rows == work.num_rows):
            continue
        points.append(_measure(work, machine))
    return fit(points, spec, kv_dtype), tuple(points)


def _grid(spec: ModelSpec, kv_dtype: str, page_size: int) -> Iterator[AttentionWork]:
    decode = [("decode", batch, context, 1) for batch in _BATCHES for context in _CONTEXTS]
    prefill = [("prefill", 1, context, chunk) for chunk, context in _CHUNKS]
    for phase, batch, context, chunk in (*decode, *prefill):
        if context <= spec.max_model_len:
            yield AttentionWork(
                phase="decode" if phase == "decode" else "prefill",
                batch=batch,
                context=context,
                chunk=chunk,
                q_heads=spec.num_heads,
                kv_heads=spec.num_kv_heads,
                head_dim=spec.head_size,
                kv_dtype=kv_dtype,
                page_size=page_size,
            )


def _measure(work: AttentionWork, machine: Machine) -> AttentionPoint:
    step = make_step(work, make_engine(work, machine))
    step()  # warms up
    seconds = []
    for _ in range(_NUM_RUNS):
        started_s = perf_counter()
        step()
        seconds.append((perf_counter() - started_s) / work.num_layers)
    return AttentionPoint(
        entries=work.batch,
        rows=work.num_rows,
        context=work.context,
        p50_s=median(seconds),
        p90_s=float(np.percentile(seconds, 90)),
    )


def fit(points: list[AttentionPoint], spec: ModelSpec, kv_dtype: str) -> AttentionTimes:
    """Fit rates to measurements, each weighed by its own size.

    Generated positions give what a shard, an entry and a byte take; prompts give the arithmetic.
    """
    decode = [point for point in points if point.rows == 1]
    seconds = np.array([point.p50_s for point in decode])  # [P]
    kv_bytes = 2 * spec.kv_size * DTYPE_BYTES[kv_dtype]
    costs = np.array(
        [(1.0, point.entries, point.entries * point.context * kv_bytes) for point in decode]
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
