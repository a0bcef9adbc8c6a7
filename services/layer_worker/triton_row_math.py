"""Row math for GPUs: one launch each, where torch's operations take up to eight."""

import torch
import triton

from services.layer_worker.row_math import TorchRowMath
from services.layer_worker.triton_kernels import (
    gate_rows,
    norm_rows,
    restore,
    rotate_rows,
)

_BLOCK = 1024
"""Numbers that a program takes of a long row."""

_HEADS = 8
"""Heads that a program rotates."""


class TritonRowMath(TorchRowMath):
    """`RowMath` by kernels that are compiled when they are first launched."""

    def norm(self, rows: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
        """See `RowMath`."""
        output = torch.empty_like(rows)
        _norm(rows.unsqueeze(1), weight, epsilon, output)
        return output

    def add_norm(
        self, rows: torch.Tensor, other: torch.Tensor, weight: torch.Tensor, epsilon: float
    ) -> torch.Tensor:
        """See `RowMath`."""
        output = torch.empty_like(rows)
        _norm(rows.unsqueeze(1), weight, epsilon, output, other)
        return output

    def norm_heads_(self, heads: torch.Tensor, weight: torch.Tensor, epsilon: float) -> None:
        """See `RowMath`."""
        _norm(heads, weight, epsilon, heads)

    def rotate_(self, heads: torch.Tensor, positions: torch.Tensor, table: torch.Tensor) -> None:
        """See `RowMath`."""
        num_rows, num_heads, head_size = heads.shape
        half = head_size // 2
        rotate_rows[num_rows, triton.cdiv(num_heads, _HEADS)](
            heads,
            positions,
            table,
            num_heads,
            heads.stride(0),
            HALF=half,
            HEADS=_HEADS,
            BLOCK=triton.next_power_of_2(half),
        )

    def gate(self, gate_up: torch.Tensor) -> torch.Tensor:
        """See `RowMath`."""
        num_rows, width = gate_up.shape[0], gate_up.shape[1] // 2
        output = gate_up.new_empty(num_rows, width)
        gate_rows[num_rows, triton.cdiv(width, _BLOCK)](gate_up, output, width, BLOCK=_BLOCK)
        return output

    def restore(self, rows: torch.Tensor, scales: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """See `RowMath`."""
        return restore(rows, scales, dtype)


def _norm(
    heads: torch.Tensor,
    weight: torch.Tensor,
    epsilon: float,
    output: torch.Tensor,
    other: torch.Tensor | None = None,
) -> None:
    """Norm each head into an output of the same strides.

    Shapes:
        heads: [T, N, D], weight: [D]
    """
    num_rows, num_heads, width = heads.shape
    norm_rows[num_rows, num_heads](
        heads,
        other,
        weight,
        output,
        width,
        heads.stride(0),
        heads.stride(1),
        epsilon,
        ADDS=other is not None,
        BLOCK=triton.next_power_of_2(width),
        num_warps=8 if width > _BLOCK else 4,
    )
