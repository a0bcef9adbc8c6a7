"""The visit between two layers, captured at a few sizes where a device replays what it captured."""

from functools import partial
from typing import Final, NamedTuple

import torch

from services.layer_worker.device import Captured, Device
from services.layer_worker.layers import LayerStack

BUCKETS: Final = (16, 32, 64, 128, 192, 256, 384, 512, 768, 1024)
"""Rows that are captured. With more, a layer computes for longer than its launches take."""


class Rows(NamedTuple):
    """What a microbatch needs again when its attention is back."""

    residual: torch.Tensor
    """[T, d]"""
    positions: torch.Tensor
    """[T], int32"""
    packed: torch.Tensor | None = None
    """The memory behind both, as a bucket's lies: they then move in one copy."""


class _Bucket:
    """Tensors that stay where they are, for all layers: they are used one after the other."""

    def __init__(self, size: int, stack: LayerStack) -> None:
        spec, self._dtype = stack.spec, stack.dtype
        self.size = size
        self._widths = (spec.hidden_size, spec.qkv_size)
        parts = (4 * size, *(size * width * self._dtype.itemsize for width in self._widths))
        self._parts = parts
        self._memory = torch.zeros(sum(parts), dtype=torch.uint8, device=stack.device)
        self._kept = self._memory[: parts[0] + parts[1]]
        self.attention = torch.zeros(size, spec.query_size, dtype=self._dtype, device=stack.device)
        """[B, H D]"""
        self.positions, self.residual, self.qkv = self._views(self._memory)
        """[B]; [B, d], before and after; [B, (H + 2G) D]"""

    def fill(self, attention: torch.Tensor, rows: Rows) -> None:
        """Take in some rows."""
        num_rows = len(attention)
        self.attention[:num_rows].copy_(attention)
        if rows.packed is not None and len(rows.packed) == len(self._memory):
            self._kept.copy_(rows.packed[: len(self._kept)])
            return
        self.residual[:num_rows].copy_(rows.residual)
        self.positions[:num_rows].copy_(rows.positions)

    def take(self, num_rows: int) -> tuple[Rows, torch.Tensor]:
        """Copy what came out: the next microbatch overwrites it."""
        packed = self._memory.clone()
        positions, residual, qkv = (each[:num_rows] for each in self._views(packed))
        return Rows(residual, positions, packed), qkv

    def _views(self, memory: torch.Tensor) -> tuple[torch.Tensor, ...]:
        positions, *others = memory.split_with_sizes(self._parts)
        by_row = (part.view(self._dtype).view(self.size, -1) for part in others)
        return positions.view(torch.int32), *by_row


class Stages:
    """Takes rows from a layer's attention to the next layer's.

    Rows are filled up to a bucket. What fills is left from earlier rows: no row sees another one.
    """

    def __init__(self, stack: LayerStack, device: Device) -> None:
        """Capture what can be; nothing may be launched meanwhile."""
        self._stack = stack
        self._buckets: dict[int, _Bucket] = {}
        self._captured: dict[tuple[int, int], Captured] = {}
        if device.captures and stack.is_static:
            for size in reversed(BUCKETS):  # the largest first: the others then find its memory
                self._capture(size, device)

    @torch.inference_mode()
    def advance(self, layer: int, attention: torch.Tensor, rows: Rows) -> tuple[Rows, torch.Tensor]:
        """Finish a layer, and begin the next one.

        Shapes:
            attention: [T, H D]
            -> with the next residual; [T, (H + 2G) D]
        """
        num_rows = len(attention)
        size = next((size for size in reversed(self._buckets) if size >= num_rows), None)
        if size is None:
            residual, qkv = self._stack.advance(layer, attention, rows.residual, rows.positions)
            return Rows(residual, rows.positions), qkv
        bucket = self._buckets[size]
        bucket.fill(attention, rows)
        self._captured[layer, size]()
        return bucket.take(num_rows)

    @torch.inference_mode()
    def _capture(self, size: int, device: Device) -> None:
        stack = self._stack
        bucket = self._buckets[size] = _Bucket(size, stack)

        def step(layer: int) -> None:
            residual, qkv = stack.advance(
                layer, bucket.attention, bucket.residual, bucket.positions
            )
            bucket.residual.copy_(residual)
            bucket.qkv.copy_(qkv)

        for layer in stack.layers[:-1]:
            self._captured[layer, size] = device.capture(partial(step, layer))
