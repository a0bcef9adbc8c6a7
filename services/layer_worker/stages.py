"""The visit between two layers, captured at a few sizes where a device replays what it captured."""

from functools import partial
from typing import Final, NamedTuple

import torch

from services.layer_worker.device import Captured, Device
from services.layer_worker.layers import LayerStack

BUCKETS: Final = (16, 32, 64, 128, 256)
"""Rows that are captured. With more, a layer computes for longer than its launches take."""


class _Bucket(NamedTuple):
    """Tensors that stay where they are, for all layers: they are used one after the other."""

    attention: torch.Tensor
    """[B, H D]"""
    residual: torch.Tensor
    """[B, d], before and after"""
    positions: torch.Tensor
    """[B]"""
    qkv: torch.Tensor
    """[B, (H + 2G) D]"""


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
    def advance(
        self,
        layer: int,
        attention: torch.Tensor,
        residual: torch.Tensor,
        positions: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Finish a layer, and begin the next one.

        Shapes:
            attention: [T, H D], residual: [T, d], positions: [T]
            -> [T, d], the next residual; [T, (H + 2G) D]
        """
        num_rows = len(residual)
        size = next((size for size in reversed(self._buckets) if size >= num_rows), None)
        if size is None:
            residual = self._stack.post_attention(layer, attention, residual)
            return residual, self._stack.pre_attention(layer + 1, residual, positions)
        bucket = self._buckets[size]
        for tensor, rows in zip(bucket, (attention, residual, positions), strict=False):
            tensor[:num_rows].copy_(rows)
        self._captured[layer, size]()
        # The next microbatch overwrites what is in the bucket.
        return bucket.residual[:num_rows].clone(), bucket.qkv[:num_rows].clone()

    @torch.inference_mode()
    def _capture(self, size: int, device: Device) -> None:
        stack = self._stack

        def rows(width: int) -> torch.Tensor:
            return torch.zeros(size, width, dtype=stack.dtype, device=stack.device)

        bucket = self._buckets[size] = _Bucket(
            attention=rows(stack.spec.query_size),
            residual=rows(stack.spec.hidden_size),
            positions=torch.zeros(size, dtype=torch.int32, device=stack.device),
            qkv=rows(stack.spec.qkv_size),
        )

        def step(layer: int) -> None:
            hidden = stack.post_attention(layer, bucket.attention, bucket.residual)
            bucket.qkv.copy_(stack.pre_attention(layer + 1, hidden, bucket.positions))
            bucket.residual.copy_(hidden)

        for layer in stack.layers[:-1]:
            self._captured[layer, size] = device.capture(partial(step, layer))
