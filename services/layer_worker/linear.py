"""Linear layers that give a row the same bits whatever rows stand beside it."""

from collections.abc import Callable
from typing import Final

import torch
from torch.nn import functional

MIN_ROWS: Final = 16
"""With fewer, the CPU's libraries may pick another kernel, which changes a row's bits."""

LinearLayer = Callable[[torch.Tensor], torch.Tensor]
"""[T, K] -> [T, N], T at least `MIN_ROWS`"""

MakeLinear = Callable[[torch.Tensor, torch.Tensor | None], LinearLayer]
"""(weight [N, K], bias [N] if there is one) -> the layer; neither may change any more."""


class Linear:
    """`rows @ weight.T + bias`, with the weight laid out once for the CPU's kernels.

    Left as it is, torch lays it out anew in every call: a third of the time at 16 rows of bf16. In
    fp32 the laid-out weight also avoids MKL, which splits rows over threads and so gives a row
    other bits in a batch of 17, and is 2.5 times slower on AMD.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None = None) -> None:
        """Take a weight [N, K] and a bias [N]; neither may change any more."""
        self._packed = _packs(weight)
        self._bias = bias
        self._weight = weight
        if self._packed:
            self._weight = torch.ops.mkldnn._reorder_linear_weight(weight, None)

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        """Apply the layer.

        Shapes:
            rows: [T, K] -> [T, N], T at least `MIN_ROWS`
        """
        if not self._packed:
            return functional.linear(rows, self._weight, self._bias)
        output: torch.Tensor = torch.ops.mkldnn._linear_pointwise(
            rows, self._weight, self._bias, "none", [], ""
        )
        return output


def pad_rows(rows: torch.Tensor) -> torch.Tensor:
    """Append zeros until there are `MIN_ROWS` rows; no copy if there are.

    Shapes:
        rows: [T, K] -> [max(T, MIN_ROWS), K]
    """
    missing = MIN_ROWS - rows.shape[0]
    return functional.pad(rows, (0, 0, 0, missing)) if missing > 0 else rows


def _packs(weight: torch.Tensor) -> bool:
    available = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if weight.device.type != "cpu" or not available:
        return False
    if weight.dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return weight.dtype == torch.float32
