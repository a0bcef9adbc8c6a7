"""Linear layers with weights in int8: a scale per output, so that the largest weight is 127."""

from functools import partial

import torch
from torch.nn import functional

from common.errors import SettingsError
from common.messages.member import Quantization
from common.runtime.triton_here import can_compile
from services.layer_worker.linear import Linear, MakeLinear
from services.layer_worker.row_math import LARGEST, ZERO_POINT, RowMath


class WeightInt8Linear:
    """Weights in int8, activations as they are (w8a16): saves memory, not time.

    The weights become numbers of the activations' dtype again in every call.
    """

    def __init__(
        self, weight: torch.Tensor, bias: torch.Tensor | None = None, *, row_math: RowMath
    ) -> None:
        """Round a weight [N, K]; a bias [N] stays as it is."""
        self._weight, self._scales = quantize_weight(weight)
        self._bias = bias
        self._math = row_math

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        """Apply the layer, see `LinearLayer`."""
        weight = self._math.restore(self._weight, self._scales, rows.dtype)  # [N, K]
        if weight.dtype == torch.float32:
            return Linear(weight, self._bias)(rows)  # else a row's bits would depend on its batch
        return functional.linear(rows, weight, self._bias)


class Int8Linear:
    """Weights and activations in int8 (w8a8), each row with a scale of its own: twice as fast.

    Sums are exact integers, so a row's bits cannot depend on its batch.
    """

    def __init__(
        self, weight: torch.Tensor, bias: torch.Tensor | None = None, *, row_math: RowMath
    ) -> None:
        """Round a weight [N, K] and lay it out for the CPU; a bias [N] stays as it is."""
        quantized, self._scales = quantize_weight(weight)
        self._weight = torch.ops.onednn.qlinear_prepack(quantized, None)
        self._zero_points = torch.zeros(len(weight), dtype=torch.int32)
        self._bias = bias
        self._math = row_math

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        """Apply the layer, see `LinearLayer`."""
        # oneDNN would take one scale for all rows, and has fast kernels for unsigned rows alone.
        quantized, scales = self._math.quantize(rows)
        output: torch.Tensor = torch.ops.onednn.qlinear_pointwise(
            quantized,
            1.0,
            ZERO_POINT,
            self._weight,
            self._scales,
            self._zero_points,
            None,
            1.0,
            0,
            rows.dtype,
            "none",
            [],
            "",
        )
        self._math.scale_(output, scales)
        return output if self._bias is None else output.add_(self._bias)


def quantize_weight(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Round each output's weights to whole multiples of its scale.

    Shapes:
        weight: [N, K] -> [N, K] int8, [N] float32
    """
    scales = weight.abs().amax(1).float() / LARGEST
    divisors = torch.where(scales > 0, scales, 1.0).unsqueeze(1)  # [N, 1]
    return (weight / divisors).round_().to(torch.int8), scales


def choose_linear(
    quantization: Quantization, dtype: torch.dtype, device: torch.device, row_math: RowMath
) -> MakeLinear:
    """Give what makes the linear layers of a model's layers.

    Raises:
        SettingsError: The device or the dtype cannot do it.
    """
    match quantization:
        case "none" | "w4a16":
            return Linear
        case "w8a16" if device.type == "cuda" and can_compile():
            from services.layer_worker.triton_linear import FusedInt8Linear

            return FusedInt8Linear
        case "w8a16":
            return partial(WeightInt8Linear, row_math=row_math)
        case "w8a8":
            if device.type != "cpu" or not torch.cpu._is_vnni_supported():
                message = "--quantization w8a8 needs a CPU with VNNI: give w8a16, or none"
                raise SettingsError(message)
            if dtype == torch.float16:
                message = "--quantization w8a8 goes with --dtype bf16 or fp32, not with fp16"
                raise SettingsError(message)
            return partial(Int8Linear, row_math=row_math)
