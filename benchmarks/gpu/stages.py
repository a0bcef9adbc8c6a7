"""How near the stages come to what bandwidth and arithmetic allow, and whether copies are hidden."""

from collections import deque
from collections.abc import Iterator, Sequence
from itertools import cycle
from statistics import median
from time import perf_counter
from typing import Any, Final

import torch

from benchmarks.gpu.rig import Loaded, Rig
from benchmarks.gpu.roofline import measure_roofline
from common.runtime.engine_thread import Launched
from services.layer_worker.device import Finished
from services.layer_worker.stages import Rows

ROWS: Final = (1, 64, 256, 1024)
_STAGE_BAR, _BUSY_BAR = 0.8, 0.9
_RUNS: Final = 5
_VISITS, _DRY_VISITS = 100, 3
_QUEUED: Final = 8
_HEAD_START_CYCLES: Final = 20_000_000
"""Of the device's clock: some ten milliseconds, in which the host queues what is measured."""
_WARM_UPS: Final = 2


def measure_stages(rig: Rig) -> Iterator[dict[str, Any]]:
    """Time the visit between two layers against its roofline, weights from memory each time."""
    model = rig.load(rig.device, torch.bfloat16, rig.few_layers() + 2)
    roofline = measure_roofline(rig)
    numbers = _numbers_of_layer(model)
    for num_rows in ROWS:
        visits = _Visits(model, num_rows)
        seconds = [visits.device_seconds() for _ in range(_RUNS)]
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
    """Let microbatches take turns whose attention is back at once: is the device ever idle?"""
    model = rig.load(rig.device, torch.bfloat16, rig.few_layers() + 2)
    num_visits = _DRY_VISITS if rig.is_dry else _VISITS
    for num_rows in ROWS:
        visits = _Visits(model, num_rows)
        visits.take_turns(num_visits)  # memory for all that is under way at once
        device_s = median(visits.device_seconds() for _ in range(_RUNS))
        wall_s = median(visits.take_turns(num_visits) for _ in range(_RUNS))
        busy = device_s / wall_s
        yield {
            "rows": num_rows,
            "us": wall_s * 1e6,
            "device_us": device_s * 1e6,
            "busy": busy,
            "met": busy >= _BUSY_BAR,
        }


class _Visits:
    """The visit between two layers, again and again, of one layer after the other."""

    def __init__(self, model: Loaded, num_rows: int) -> None:
        place, dtype, spec = model.device.place, model.stack.dtype, model.spec
        self._model = model
        self._attention = torch.randn(num_rows, spec.query_size).to(dtype)
        self._rows = Rows(
            torch.randn(num_rows, spec.hidden_size, device=place).to(dtype),
            torch.arange(num_rows, dtype=torch.int32, device=place),
        )
        self._layers = cycle(range(spec.num_layers - 1))
        for _ in range(_WARM_UPS):
            self.launch().finish()

    def launch(self) -> Launched[Finished]:
        """Begin one."""

        def compute(inputs: Sequence[torch.Tensor]) -> tuple[None, list[torch.Tensor]]:
            return None, [self._advance(inputs[0])]

        return self._model.device.launch([[self._attention]], compute, lambda finished: finished)

    def device_seconds(self) -> float:
        """Time one on the device, with rows that are there, and the host far ahead."""
        place = self._model.device.place
        attention = self._attention.to(place)
        if place.type == "cpu":
            started_s = perf_counter()
            for _ in range(_QUEUED):
                self._advance(attention)
            return (perf_counter() - started_s) / _QUEUED
        begun, ended = (torch.Event(place, enable_timing=True) for _ in range(2))
        torch.cuda._sleep(_HEAD_START_CYCLES)  # type: ignore[no-untyped-call]
        begun.record()
        for _ in range(_QUEUED):
            self._advance(attention)
        ended.record()
        ended.synchronize()
        return float(begun.elapsed_time(ended)) / 1000 / _QUEUED

    def take_turns(self, num_visits: int) -> float:
        """Have as many under way as the device can take; give the seconds per visit."""
        started_s = perf_counter()
        under_way: deque[Launched[Finished]] = deque()
        for _ in range(num_visits):
            under_way.append(self.launch())
            if len(under_way) == self._model.device.max_launched:
                under_way.popleft().finish()
        for each in under_way:
            each.finish()
        return (perf_counter() - started_s) / num_visits

    def _advance(self, attention: torch.Tensor) -> torch.Tensor:
        self._rows, qkv = self._model.stages.advance(next(self._layers), attention, self._rows)
        return qkv


def _numbers_of_layer(model: Loaded) -> int:
    spec = model.spec
    attention = spec.hidden_size * (spec.qkv_size + spec.query_size)
    return attention + 3 * spec.hidden_size * spec.intermediate_size
