"""A linear layer for GPUs whose weights stay in int8 until they are on the chip."""

from typing import NamedTuple

import torch
import triton
from torch.nn import functional

from services.layer_worker.quantized import quantize_weight
from services.layer_worker.triton_kernels import multiply_int8, restore

_MAX_FUSED_ROWS = 256
"""With more, the product is bound by arithmetic, which the library's own is better at."""

_MANY_OUTPUTS = 16384
"""Of a layer whose large tiles still make one for each part of a GPU."""


class _Tile(NamedTuple):
    """What one program computes, and how much of it at a time; measured on an H200."""

    rows: int
    outputs: int
    inputs: int


def _choose_tile(num_rows: int, num_outputs: int) -> _Tile:
    if num_rows <= 16:
        return _Tile(rows=16, outputs=32, inputs=256)
    if num_outputs >= _MANY_OUTPUTS:
        return _Tile(rows=64 if num_rows <= 64 else 128, outputs=128, inputs=64)
    return _Tile(
        rows=min(64, _round_up(num_rows)), outputs=32 if num_rows <= 64 else 64, inputs=128
    )


def _round_up(number: int) -> int:
    rounded: int = triton.next_power_of_2(number)
    return rounded


class FusedInt8Linear:
    """Weights in int8, activations as they are (w8a16): reads half the bytes."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None = None) -> None:
        """Round a weight [N, K]; a bias [N] stays as it is."""
        self._weight, self._scales = quantize_weight(weight)
        self._bias = bias

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        """Apply the layer, see `LinearLayer`."""
        num_rows, num_inputs = rows.shape
        num_outputs = len(self._weight)
        if num_rows > _MAX_FUSED_ROWS:
            weight = restore(self._weight, self._scales, rows.dtype)
            return functional.linear(rows, weight, self._bias)
        output = rows.new_empty(num_rows, num_outputs)
        tile = _choose_tile(num_rows, num_outputs)
        grid = triton.cdiv(num_rows, tile.rows), triton.cdiv(num_outputs, tile.outputs)
        multiply_int8[grid](
            rows,
            self._weight,
            self._scales,
            output,
            num_rows,
            num_outputs,
            num_inputs,
            ROWS=tile.rows,
            OUTPUTS=tile.outputs,
            INPUTS=tile.inputs,
            num_stages=4,
        )
        return output if self._bias is None else output.add_(self._bias)
