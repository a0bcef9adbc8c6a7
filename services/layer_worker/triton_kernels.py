"""Tier 1's kernels for GPUs: what stands between matrix products, and products with int8 weights.

All sums are in float32; what torch would round in between is not rounded here.
"""

import torch
import triton
import triton.language as tl

_BLOCK = 1024


@triton.jit
def norm_rows(
    rows,
    other,
    weight,
    output,
    width,
    row_stride,
    head_stride,
    epsilon,
    ADDS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Norm `rows[row, head]`, one program each; with `ADDS` after adding the other's, in place.

    Source: root mean square layer normalization, Zhang and Sennrich 2019 (arXiv:1910.07467).
    """
    row, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    columns = tl.arange(0, BLOCK)
    inside = columns < width
    place = row * row_stride + head * head_stride + columns
    wide = tl.load(rows + place, mask=inside, other=0.0).to(tl.float32)
    if ADDS:
        wide += tl.load(other + place, mask=inside, other=0.0).to(tl.float32)
        total = wide.to(rows.dtype.element_ty)
        tl.store(rows + place, total, mask=inside)
        wide = total.to(tl.float32)
    factor = tl.rsqrt(tl.sum(wide * wide) / width + epsilon)
    scaled = wide * factor * tl.load(weight + columns, mask=inside, other=0.0).to(tl.float32)
    tl.store(output + place, scaled, mask=inside)


@triton.jit
def rotate_rows(
    heads,
    positions,
    table,
    num_heads,
    row_stride,
    HALF: tl.constexpr,
    HEADS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Rotate a row's heads, in place; one program per row and `HEADS` heads.

    Source: rotary position embedding, Su et al. 2021 (arXiv:2104.09864), halves apart.
    """
    row = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * HEADS + tl.arange(0, HEADS)[:, None]
    column = tl.arange(0, BLOCK)[None, :]
    inside = (head < num_heads) & (column < HALF)
    turn = table + tl.load(positions + row).to(tl.int64) * (2 * HALF) + column
    cosine = tl.load(turn, mask=column < HALF, other=0.0)
    sine = tl.load(turn + HALF, mask=column < HALF, other=0.0)
    place = heads + row * row_stride + head * (2 * HALF) + column
    first = tl.load(place, mask=inside, other=0.0).to(tl.float32)
    second = tl.load(place + HALF, mask=inside, other=0.0).to(tl.float32)
    tl.store(place, first * cosine - second * sine, mask=inside)
    tl.store(place + HALF, second * cosine + first * sine, mask=inside)


@triton.jit
def gate_rows(gate_up, output, width, BLOCK: tl.constexpr):
    """Multiply silu of the first half of each row with the second half; a program per block."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < width
    place = gate_up + row * 2 * width + columns
    gate = tl.load(place, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(place + width, mask=inside, other=0.0).to(tl.float32)
    tl.store(output + row * width + columns, gate * tl.sigmoid(gate) * up, mask=inside)


@triton.jit
def restore_rows(rows, scales, output, width, BLOCK: tl.constexpr):
    """Multiply rows of int8 by their scales; a program per block."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < width
    numbers = tl.load(rows + row * width + columns, mask=inside, other=0).to(tl.float32)
    tl.store(output + row * width + columns, numbers * tl.load(scales + row), mask=inside)


def restore(rows: torch.Tensor, scales: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Multiply each row of whole numbers by its scale.

    Shapes:
        rows: [T, d] int8, scales: [T] float32 -> [T, d] of the dtype
    """
    num_rows, width = rows.shape
    output = torch.empty(num_rows, width, dtype=dtype, device=rows.device)
    grid = num_rows, triton.cdiv(width, _BLOCK)
    restore_rows[grid](rows, scales, output, width, BLOCK=_BLOCK)
    return output


@triton.jit(do_not_specialize=["num_rows"])
def multiply_int8(
    rows,
    weight,
    scales,
    output,
    num_rows,
    num_outputs,
    num_inputs,
    ROWS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    INPUTS: tl.constexpr,
):
    """Compute `rows @ (weight * scales).T` for a tile of it; weights become wide on the chip only.

    Shapes:
        rows: [T, K], weight: int8 [N, K], scales: float32 [N], output: [T, N]
    """
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * OUTPUTS + tl.arange(0, OUTPUTS)
    inputs = tl.arange(0, INPUTS)
    has_row, has_column = row[:, None] < num_rows, column[None, :] < num_outputs
    left = rows + row.to(tl.int64)[:, None] * num_inputs + inputs[None, :]
    right = weight + column.to(tl.int64)[None, :] * num_inputs + inputs[:, None]
    total = tl.zeros((ROWS, OUTPUTS), dtype=tl.float32)
    for start in range(0, num_inputs, INPUTS):
        present = inputs < num_inputs - start
        a = tl.load(left + start, mask=has_row & present[None, :], other=0.0)
        b = tl.load(right + start, mask=has_column & present[:, None], other=0)
        total = tl.dot(a, b.to(tl.float32).to(a.dtype), total, input_precision="ieee")
    total *= tl.load(scales + column, mask=column < num_outputs, other=0.0)[None, :]
    place = output + row.to(tl.int64)[:, None] * num_outputs + column[None, :]
    tl.store(place, total, mask=has_row & has_column)
