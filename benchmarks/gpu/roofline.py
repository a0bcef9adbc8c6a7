"""What a device's memory and its arithmetic allow."""

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Final

import torch

from benchmarks.gpu.rig import Rig

_LARGE, _DRY_LARGE = 8192, 128
"""Rows and columns of the product by which arithmetic is measured."""
_BYTES, _DRY_BYTES = 1 << 30, 1 << 20
_RUNS: Final = 5
_CALLS: Final = 10
"""Between two looks at the clock, so that what it takes to begin does not count."""


@dataclass(frozen=True, slots=True)
class Roofline:
    """Rates that nothing on the device exceeds."""

    bytes_per_s: float
    """Of a copy, bytes read and bytes written together."""
    flops_per_s: float
    """Of a large product in bf16."""


def measure_roofline(rig: Rig) -> Roofline:
    """Measure both, the best of a few runs."""
    place = rig.device.place
    size = _DRY_BYTES if rig.is_dry else _BYTES
    source = torch.ones(size, dtype=torch.uint8, device=place)
    target = torch.empty_like(source)
    side = _DRY_LARGE if rig.is_dry else _LARGE
    left = torch.randn(side, side, device=place).to(torch.bfloat16)  # zeros and ones are faster
    copy_s = min(seconds_of(rig, lambda _: target.copy_(source)) for _ in range(_RUNS))
    multiply_s = min(seconds_of(rig, lambda _: left @ left) for _ in range(_RUNS))
    return Roofline(2 * size / copy_s, 2 * side**3 / multiply_s)


def seconds_of(rig: Rig, work: Callable[[int], object]) -> float:
    """Time work on the device, called with 0, 1, 2..., for one call."""
    rig.device.settle()
    started_s = perf_counter()
    for number in range(_CALLS):
        work(number)
    rig.device.settle()
    return (perf_counter() - started_s) / _CALLS
