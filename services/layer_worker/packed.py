"""Weights of 4 bits as AWQ and GPTQ store them: unpacked, or kept in 4 bits for torch's kernels."""

from dataclasses import dataclass
from typing import Final

import torch

from common.packing_spec import NUMBERS_PER_WORD, PackingSpec

_AWQ_ORDER: Final = (0, 4, 1, 5, 2, 6, 3, 7)
"""Where AWQ puts number i of a word: its kernels read pairs that lie half a word apart."""

_MASK: Final = 15
_MIDDLE: Final = 8
"""The number that torch's kernels take for zero."""

_GROUP_SIZES: Final = (32, 64, 128, 256)
_CPU_OUTPUTS: Final = 16
"""Of these the CPU's kernel takes whole multiples."""
_GPU_OUTPUTS, _GPU_INPUTS, _GPU_TILES = 8, 128, 8
"""The same for the GPU's, and the tiles that it takes at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedWeight:
    """A weight [N, K] of whole numbers, with a scale and a zero per output and group."""

    numbers: torch.Tensor
    """uint8 [N, K], from 0 to 15"""
    scales: torch.Tensor
    """float32 [N, G]"""
    zeros: torch.Tensor
    """float32 [N, G]"""
    groups: torch.Tensor
    """int64 [K]: the group of each input."""

    def restore(self, dtype: torch.dtype) -> torch.Tensor:
        """Multiply out.

        Shapes:
            -> [N, K]
        """
        centred = self.numbers.float().sub_(self.zeros[:, self.groups])
        return centred.mul_(self.scales[:, self.groups]).to(dtype)


def unpack(
    packing: PackingSpec,
    words: torch.Tensor,
    zeros: torch.Tensor,
    scales: torch.Tensor,
    groups: torch.Tensor | None,
) -> PackedWeight:
    """Take a weight apart that a checkpoint has packed.

    Args:
        packing: How.
        words: int32, eight numbers each.
        zeros: int32 [G, N/8]
        scales: [G, N]
        groups: int32 [K], of GPTQ; None where they follow each other.

    Shapes:
        words: [K, N/8] of AWQ, [K/8, N] of GPTQ
    """
    if packing.method == "awq":
        numbers = _unpack_columns(words, _AWQ_ORDER)  # [K, N]
        stored_zeros = _unpack_columns(zeros, _AWQ_ORDER)
    else:
        in_order = tuple(range(NUMBERS_PER_WORD))
        numbers = _unpack_columns(words.T, in_order).T
        stored_zeros = _unpack_columns(zeros, in_order)
    if groups is None:
        places = torch.arange(len(numbers), device=words.device)
        groups = places // (packing.group_size or len(numbers))
    return PackedWeight(
        numbers=numbers.T.contiguous(),
        scales=scales.float().T.contiguous(),
        zeros=(stored_zeros.float() + packing.stored_zeros_off).T.contiguous(),
        groups=groups.long(),
    )


def _unpack_columns(words: torch.Tensor, order: tuple[int, ...]) -> torch.Tensor:
    """Give the numbers of each row's words.

    Shapes:
        words: [R, C] -> uint8 [R, 8 C]
    """
    parts = [(words >> (4 * place)).bitwise_and_(_MASK).to(torch.uint8) for place in order]
    return torch.stack(parts, dim=2).flatten(1)


def fuse(parts: list[PackedWeight]) -> PackedWeight | None:
    """Stack weights by their outputs; None if their inputs are not grouped alike."""
    first = parts[0]
    if any(not torch.equal(part.groups, first.groups) for part in parts):
        return None
    return PackedWeight(
        numbers=torch.cat([part.numbers for part in parts]),
        scales=torch.cat([part.scales for part in parts]),
        zeros=torch.cat([part.zeros for part in parts]),
        groups=first.groups,
    )


class Int4Linear:
    """Weights in 4 bits, activations as they are (w4a16), by torch's own kernels.

    Inputs that GPTQ has grouped out of order are sorted by group in every call.
    """

    def __init__(self, weight: PackedWeight, bias: torch.Tensor | None, dtype: torch.dtype) -> None:
        """Lay a weight out for its device, see `fits_int4`."""
        order = weight.groups.argsort(stable=True)
        in_order = torch.equal(order, torch.arange(len(order), device=order.device))
        self._order = None if in_order else order
        numbers = weight.numbers if in_order else weight.numbers[:, order]
        self._group_size = numbers.shape[1] // weight.scales.shape[1]
        offsets = (_MIDDLE - weight.zeros) * weight.scales  # [N, G]
        self._scales = torch.stack((weight.scales.T, offsets.T), dim=2).to(dtype).contiguous()
        self._weight = _lay_out(numbers)
        self._bias = bias

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        """Apply the layer, see `LinearLayer`."""
        if self._order is not None:
            rows = rows[:, self._order]
        product = torch.ops.aten._weight_int4pack_mm
        if rows.device.type == "cpu":
            product = torch.ops.aten._weight_int4pack_mm_for_cpu
        output: torch.Tensor = product(
            rows.contiguous(), self._weight, self._group_size, self._scales
        )
        return output if self._bias is None else output.add_(self._bias)


def _lay_out(numbers: torch.Tensor) -> torch.Tensor:
    if numbers.device.type == "cpu":
        layout: torch.Tensor = torch.ops.aten._convert_weight_to_int4pack_for_cpu(numbers.int(), 1)
        return layout
    pairs = (numbers[:, ::2] << 4) | numbers[:, 1::2]
    tiled: torch.Tensor = torch.ops.aten._convert_weight_to_int4pack(pairs, _GPU_TILES)
    return tiled


def fits_int4(weight: PackedWeight, dtype: torch.dtype) -> bool:
    """Say whether torch's kernel for the weight's device takes it."""
    num_outputs, num_inputs = weight.numbers.shape
    num_groups = weight.scales.shape[1]
    sizes = torch.bincount(weight.groups, minlength=num_groups)
    if num_inputs // num_groups not in _GROUP_SIZES or (sizes != sizes[0]).any():
        return False
    if weight.numbers.device.type == "cpu":
        return num_outputs % _CPU_OUTPUTS == 0
    whole = num_outputs % _GPU_OUTPUTS == 0 and num_inputs % _GPU_INPUTS == 0
    return whole and dtype == torch.bfloat16
