"""How near the stages come to what bandwidth and arithmetic allow, and whether copies are hidden."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import Any, Final

import torch

from benchmarks.gpu.rig import Loaded, Rig
from common.runtime.engine_thread import Launched
from services.layer_worker.device import Finished

ROWS: Final = (1, 64, 256, 1024)
_STAGE_BAR, _BUSY_BAR = 0.8, 0.9
_RUNS: Final = 50
_DRY_RUNS: Final = 2
_LARGE, _DRY_LARGE = 8192, 128
"""Rows and columns of the product by which arithmetic is measured."""
_BYTES, _DRY_BYTES = 1 << 30, 1 << 20


@dataclass(frozen=True, slots=True)
class _Roofline:
    bytes_per_s: float
    flops_per_s: float


def measure_stages(rig: Rig) -> Iterator[dict[str, Any]]:
    """Time the visit between two layers against its roofline, weights from memory each time."""
    model = rig.load(rig.device, torch.bfloat16, rig.few_layers() + 2)
    roofline = _roofline(rig)
    num_runs = _DRY_RUNS if rig.is_dry else _RUNS
    numbers = _numbers_of_layer(model)
    for num_rows in ROWS:
        seconds = [
            _visit(model, run % (model.spec.num_layers - 1), num_rows).finish().seconds
            for run in range(num_runs)
        ]
        read_s = 2 * numbers / roofline.bytes_per_s
        multiply_s = 2 * numbers * num_rows / roofline.flops_per_s
        fraction = max(read_s, multiply_s) / median(seconds)
        yield {
            "rows": num_rows,
            "us": median(seconds) * 1e6,
            "us_spread": [min(seconds) * 1e6, max(seconds) * 1e6],
            "roofline_us": max(read_s, multiply_s) * 1e6,
            "fraction": fraction,
            "met": fraction >= _STAGE_BAR,
        }


def measure_overlap(rig: Rig) -> Iterator[dict[str, Any]]:
    """Let two microbatches take turns whose attention is back at once: is the device ever idle?"""
    model = rig.load(rig.device, torch.bfloat16, rig.few_layers() + 2)
    num_runs = _DRY_RUNS if rig.is_dry else _RUNS
    for num_rows in ROWS:
        _visit(model, 0, num_rows).finish()
        started_s = perf_counter()
        under_way: list[Launched[Finished]] = []
        busy_s = 0.0
        for run in range(num_runs):
            under_way.append(_visit(model, run % (model.spec.num_layers - 1), num_rows))
            if len(under_way) > 1:
                busy_s += under_way.pop(0).finish().seconds
        busy_s += sum(each.finish().seconds for each in under_way)
        busy = busy_s / (perf_counter() - started_s)
        yield {"rows": num_rows, "busy": busy, "met": busy >= _BUSY_BAR}


def _visit(model: Loaded, layer: int, num_rows: int) -> Launched[Finished]:
    dtype, spec = model.stack.dtype, model.spec
    attention = torch.zeros(num_rows, spec.query_size, dtype=dtype)
    residual = torch.ones(num_rows, spec.hidden_size, dtype=dtype, device=model.device.place)
    places = torch.arange(num_rows, dtype=torch.int32, device=model.device.place)

    def compute(inputs: Sequence[torch.Tensor]) -> tuple[torch.Tensor, list[torch.Tensor]]:
        hidden, qkv = model.stages.advance(layer, inputs[0], residual, places)
        return hidden, [qkv]

    return model.device.launch([[attention]], compute, lambda finished: finished)


def _numbers_of_layer(model: Loaded) -> int:
    spec = model.spec
    attention = spec.hidden_size * (spec.qkv_size + spec.query_size)
    return attention + 3 * spec.hidden_size * spec.intermediate_size


def _roofline(rig: Rig) -> _Roofline:
    place = rig.device.place
    size = _DRY_BYTES if rig.is_dry else _BYTES
    source = torch.ones(size, dtype=torch.uint8, device=place)
    target = torch.empty_like(source)
    side = _DRY_LARGE if rig.is_dry else _LARGE
    left = torch.ones(side, side, dtype=torch.bfloat16, device=place)
    copy_s = min(_timed(rig, lambda: target.copy_(source)) for _ in range(5))
    multiply_s = min(_timed(rig, lambda: left @ left) for _ in range(5))
    return _Roofline(2 * size / copy_s, 2 * side**3 / multiply_s)


def _timed(rig: Rig, work: Any) -> float:
    rig.device.settle()
    started_s = perf_counter()
    work()
    rig.device.settle()
    return perf_counter() - started_s
