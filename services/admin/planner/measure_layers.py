"""Times of a layer on this machine: the layer worker's own engine, row by row count."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

import numpy as np

from common.ids import MicrobatchId
from common.messages import LayerRole, Sampling, Tensor
from common.messages.entries import SAMPLE
from common.model_spec import ModelSpec
from common.policy.profile import LayerTimes
from services.admin.planner.lengths import Lengths
from services.admin.planner.virtual_job import VirtualJob
from services.layer_worker.device import Device
from services.layer_worker.engine import LayerEngine
from services.layer_worker.work import (
    Advance,
    Attended,
    Begin,
    End,
    LayerBegun,
    LoadRange,
    Work,
)
from services.router.requests import Requests
from services.router.sampling_columns import sampling_columns

ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)
"""Where a layer is measured, as far as time allows."""

_MAX_LAYERS = 8
"""Layers that are visited in turn, so that weights come from memory as in a whole range."""
_LONGEST_S = 0.5
"""A layer that takes longer is the last that is measured."""
_MIN_RUNS, _MEASURE_S = 5, 0.4


class _Sample(NamedTuple):
    """Seconds of the stages in one pass."""

    pre_s: float
    post_s: float
    classify_s: float


@dataclass(frozen=True, slots=True)
class LayersToMeasure:
    """Whose layers, and where."""

    directory: Path
    """Of the model."""
    spec: ModelSpec
    dtype: str
    """Of weights and activations."""
    rows: Sequence[int]
    """Ascending, two at least."""


def measure_layers(
    wanted: LayersToMeasure, device: Device, say: Callable[[str], None]
) -> tuple[LayerTimes, LayerTimes]:
    """Measure a layer's stages by rows, as far as time allows.

    Args:
        wanted: What is to be measured.
        device: To compute on.
        say: Told each result.

    Returns:
        The medians, and as slow as one in ten runs was.

    Raises:
        ModelRefused: The checkpoint cannot be served.
    """
    spec = wanted.spec
    engine = LayerEngine(wanted.directory, spec, device)
    num_layers = min(_MAX_LAYERS, spec.num_layers)
    middle = _Range(engine, spec, wanted.dtype, spec.num_layers - num_layers)
    rows, columns = [], []
    for num_rows in wanted.rows:
        samples = np.array(middle.samples(num_rows))  # [runs, stages]
        rows.append(num_rows)
        columns.append(samples)
        layer_s = np.median(samples[:, :2], axis=0).sum()
        say(f"layers: {num_rows} rows, {1000 * layer_s:.2f} ms per layer")
        if layer_s > _LONGEST_S and len(rows) > 1:
            break
    return _times(rows, columns, 50), _times(rows, columns, 90)


def _times(rows: Sequence[int], columns: Sequence[np.ndarray], percentile: float) -> LayerTimes:
    pre_s, post_s, classify_s = zip(
        *(np.percentile(samples, percentile, axis=0).tolist() for samples in columns), strict=True
    )
    return LayerTimes(rows=tuple(rows), pre_s=pre_s, post_s=post_s, classify_s=classify_s)


class _Range:
    """The last layers of a model, loaded to be measured."""

    def __init__(self, engine: LayerEngine, spec: ModelSpec, dtype: str, start: int) -> None:
        self._compute = engine.compute
        self._spec = spec
        self._dtype = dtype
        self._layers = range(start, spec.num_layers)
        role = LayerRole(
            start=start,
            stop=spec.num_layers,
            first=start == 0,
            last=True,
            dtype=dtype,
            quantization="none",
        )
        self._compute(LoadRange(role=role))
        self._ids = count()

    def samples(self, num_rows: int) -> list[_Sample]:
        """Run passes of so many rows, until their times can be told apart from noise."""
        entries = np.zeros((num_rows, 6), np.int32)
        entries[:, 2], entries[:, 5] = 1, SAMPLE
        arrived = Tensor.of(np.ones(num_rows, np.int32))
        if self._layers.start > 0:
            arrived = self._zeros(num_rows, self._spec.hidden_size)
        self._pass(Tensor.of(entries), arrived, _greedy(num_rows))  # warms up
        samples: list[_Sample] = []
        give_up_s = perf_counter() + _MEASURE_S
        while len(samples) < _MIN_RUNS or perf_counter() < give_up_s:
            samples += self._pass(Tensor.of(entries), arrived, _greedy(num_rows))
        return samples

    def _pass(self, entries: Tensor, arrived: Tensor, sampling: Sampling) -> list[_Sample]:
        microbatch_id = MicrobatchId(next(self._ids))
        output = self._zeros(entries.shape[0], self._spec.query_size)
        attention = (Attended(output=output, log_sums=None),)
        begin = Begin(
            microbatch_id=microbatch_id,
            layer=self._layers.start,
            entries=entries,
            arrived=arrived,
        )
        pre_s, done = self._timed(begin)
        posts: list[float] = []
        for layer in self._layers[:-1]:
            assert isinstance(done, LayerBegun), "a layer begins after another"
            advance = Advance(
                microbatch_id=microbatch_id, layer=layer, carry=done.carry, attention=attention
            )
            seconds, done = self._timed(advance)
            posts.append(seconds - pre_s)
        assert isinstance(done, LayerBegun), "the last layer has begun"
        end = End(
            microbatch_id=microbatch_id,
            layer=self._layers[-1],
            carry=done.carry,
            attention=attention,
            entries=entries,
            sampling=sampling,
        )
        end_s, _ = self._timed(end)
        post_s = float(np.median(posts)) if posts else end_s
        return [_Sample(pre_s, max(0.0, post_s), max(0.0, end_s - post_s))]

    def _timed(self, work: Work) -> tuple[float, object]:
        started_s = perf_counter()
        done = self._compute(work)
        return perf_counter() - started_s, done

    def _zeros(self, num_rows: int, width: int) -> Tensor:
        numbers = np.zeros((num_rows, width), np.float32)
        if self._dtype == "fp32":
            return Tensor.of(numbers)
        halves = numbers.view(np.uint16)[:, 1::2].copy()
        return Tensor(
            dtype=self._dtype, shape=numbers.shape, memory=halves.view(np.uint8).reshape(-1).data
        )


def _greedy(num_rows: int) -> Sampling:
    """Give what the router says about requests that are sampled greedily."""
    requests = Requests(lambda _: lambda _: "")
    requests.add(VirtualJob([Lengths(1, 1)]).lines().lines[0])
    return sampling_columns(requests.all() * num_rows)
