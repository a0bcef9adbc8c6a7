"""What tier 1 computes between its matrix products, by torch; the way that every device can go."""

from typing import Final, Protocol

import torch
from torch.nn import functional

LARGEST: Final = 127
"""Of an int8, so that there is one of either sign."""

ZERO_POINT: Final = 128
"""Stands for 0 where an int8 is written as a byte without sign."""


class RowMath(Protocol):
    """Computes on rows of activations; a row's result depends on that row alone.

    In the shapes, T rows have d numbers, or N heads of D numbers; F is the inner size of the MLP.
    """

    def norm(self, rows: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
        """Divide each row by the root of its mean square, and multiply by the weight.

        Shapes:
            rows: [T, d], weight: [d] -> [T, d]
        """
        ...

    def add_norm(
        self, rows: torch.Tensor, other: torch.Tensor, weight: torch.Tensor, epsilon: float
    ) -> torch.Tensor:
        """Add the other rows to the rows, in place, and norm the sums.

        Shapes:
            rows, other: [T, d], contiguous, weight: [d] -> [T, d]
        """
        ...

    def norm_heads_(self, heads: torch.Tensor, weight: torch.Tensor, epsilon: float) -> None:
        """Norm each head, in place.

        Shapes:
            heads: [T, N, D], rows may be apart; weight: [D]
        """
        ...

    def rotate_(self, heads: torch.Tensor, positions: torch.Tensor, table: torch.Tensor) -> None:
        """Rotate each row's heads by its position, in place.

        Shapes:
            heads: [T, N, D], rows may be apart
            positions: [T], int32
            table: [L, D], float32: of each position, the cosines and then the sines
        """
        ...

    def gate(self, gate_up: torch.Tensor) -> torch.Tensor:
        """Multiply silu of the first half of each row with the second half.

        Shapes:
            gate_up: [T, 2F] -> [T, F]
        """
        ...

    def quantize(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Round each row to whole multiples of its scale, so that its largest is `LARGEST`.

        Shapes:
            rows: [T, d] -> [T, d] uint8, `ZERO_POINT` for 0; [T] float32
        """
        ...

    def scale_(self, rows: torch.Tensor, scales: torch.Tensor) -> None:
        """Multiply each row by its scale, in place.

        Shapes:
            rows: [T, d], scales: [T] float32
        """
        ...

    def restore(self, rows: torch.Tensor, scales: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Multiply each row of whole numbers by its scale.

        Shapes:
            rows: [T, d] int8, scales: [T] float32 -> [T, d] of the dtype
        """
        ...


class TorchRowMath:
    """Row math by torch's own operations."""

    def norm(self, rows: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
        """See `RowMath`."""
        return functional.rms_norm(rows, weight.shape, weight, epsilon)

    def add_norm(
        self, rows: torch.Tensor, other: torch.Tensor, weight: torch.Tensor, epsilon: float
    ) -> torch.Tensor:
        """See `RowMath`."""
        rows += other
        return self.norm(rows, weight, epsilon)

    def norm_heads_(self, heads: torch.Tensor, weight: torch.Tensor, epsilon: float) -> None:
        """See `RowMath`."""
        heads.copy_(self.norm(heads, weight, epsilon))

    def rotate_(self, heads: torch.Tensor, positions: torch.Tensor, table: torch.Tensor) -> None:
        """See `RowMath`."""
        rotations = table.index_select(0, positions).unsqueeze(1)  # [T, 1, D]
        cosine, sine = rotations.chunk(2, dim=-1)  # [T, 1, D/2] each
        first, second = heads.chunk(2, dim=-1)  # [T, N, D/2] each
        # Only exact operations: a fused multiply-add would round a vector's tail otherwise, and a
        # row's bits would depend on where in the batch it stands.
        turned = first * cosine - second * sine
        second.copy_(second * cosine + first * sine)
        first.copy_(turned)

    def gate(self, gate_up: torch.Tensor) -> torch.Tensor:
        """See `RowMath`."""
        gate, up = gate_up.chunk(2, dim=1)  # [T, F] each
        return _silu(gate) * up

    def quantize(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See `RowMath`."""
        peaks = rows.abs().amax(1).float()  # [T]
        factors = torch.where(peaks > 0, peaks.new_tensor(LARGEST) / peaks, 0.0).unsqueeze(
            1
        )  # [T, 1]
        return (rows * factors).round_().add_(ZERO_POINT).to(torch.uint8), peaks / LARGEST

    def scale_(self, rows: torch.Tensor, scales: torch.Tensor) -> None:
        """See `RowMath`."""
        rows *= scales.unsqueeze(1)

    def restore(self, rows: torch.Tensor, scales: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """See `RowMath`."""
        return (rows * scales.unsqueeze(1)).to(dtype)


def _silu(gate: torch.Tensor) -> torch.Tensor:
    if gate.device.type == "cpu" and gate.dtype == torch.float32:
        # torch's own rounds the tail of a vector differently from its body, and the tail is where
        # the threads meet. In 16 bits that difference is rounded away: no value shows it.
        return gate / (1.0 + torch.exp(-gate))
    return functional.silu(gate)
