"""How near attention on a GPU's pages comes to its memory's bandwidth."""

from collections.abc import Iterator
from statistics import median
from typing import Any, Final

import numpy as np
import torch

from benchmarks.gpu.rig import Rig
from benchmarks.gpu.roofline import measure_roofline, seconds_of
from services.attention_worker.cache_shape import CacheShape
from services.attention_worker.device_engine import DeviceEngine
from services.attention_worker.engine import engine_type
from services.attention_worker.machine import Kernel, Machine

_BAR: Final = 0.75
_HEADS, _KV_HEADS, _HEAD_SIZE, _PAGE_SIZE = 32, 8, 128, 64
_BATCHES: Final = ((1, 8192), (16, 2048), (64, 2048), (128, 1024))
"""Entries, and the tokens that each has."""
_DRY_BATCHES: Final = ((2, 130),)
_RUNS: Final = 5


def measure_attention(rig: Rig) -> Iterator[dict[str, Any]]:
    """Time one layer's decode attention, rows on the device already, against reading all pages once."""
    bytes_per_s = measure_roofline(rig).bytes_per_s
    kernels: tuple[Kernel, ...] = ("gather",) if rig.is_dry else ("triton", "gather")
    for num_entries, length in _DRY_BATCHES if rig.is_dry else _BATCHES:
        for kernel in kernels:
            seconds = _decode_s(rig, kernel, num_entries, length)
            num_bytes = num_entries * length * 2 * _KV_HEADS * _HEAD_SIZE * 2
            fraction = num_bytes / seconds / bytes_per_s
            yield {
                "kernel": kernel,
                "entries": num_entries,
                "tokens": length,
                "us": seconds * 1e6,
                "fraction": fraction,
                "met": fraction >= _BAR,
            }


def _decode_s(rig: Rig, kernel: Kernel, num_entries: int, length: int) -> float:
    pages_each = -(-length // _PAGE_SIZE)
    num_pages = num_entries * pages_each
    num_layers = max(1, (1 << 28) // (num_pages * _PAGE_SIZE * 2 * _KV_HEADS * _HEAD_SIZE * 2))
    shape = CacheShape(
        num_layers=num_layers,
        num_kv_heads=_KV_HEADS,
        head_size=_HEAD_SIZE,
        page_size=_PAGE_SIZE,
        dtype="bf16",
    )
    machine = Machine(instruction_set=kernel, num_threads=1, device=rig.name)
    engine = engine_type(machine)(machine, shape, num_pages, _HEADS, (None,) * num_layers)
    assert isinstance(engine, DeviceEngine)
    entries = np.array(
        [(each, length - 1, 1, pages_each, length - 1, 0) for each in range(num_entries)], np.int32
    )
    pages = np.random.default_rng(0).permutation(num_pages).astype(np.int32)
    plan = engine.plan(entries, pages)
    width = (_HEADS + 2 * _KV_HEADS, _HEAD_SIZE)
    qkv = torch.randn(num_entries, *width, device=rig.device.place).bfloat16()

    def attend(call: int) -> None:
        engine.attend_on_device(call % num_layers, plan, qkv)

    return median(seconds_of(rig, attend) for _ in range(_RUNS))
