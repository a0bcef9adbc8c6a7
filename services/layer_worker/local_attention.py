"""Attention among the rows of one chunk, on the layer worker, and its merge with what came before.

Source: the online softmax of FlashAttention-2, Dao 2023, section 3.1 (arXiv:2307.08691): two results
over disjoint keys are weighted by the sums of the exponentials of their scores.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from common.messages.entries import NUM_ROWS, START, Entries, is_local, is_written

_BUCKET = 64
"""Entries whose numbers of rows are equal when rounded up to it attend in one call."""

_ALIGNMENT = 16


@dataclass(frozen=True, slots=True)
class Bucket:
    """The rows of a few entries of similar length."""

    rows: torch.Tensor
    """`[n, length]`: of each entry its rows, then its last one again and again."""
    present: torch.Tensor
    """bool `[n, length]`: False for what is there only to fill."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalRows:
    """Which rows of a microbatch are local, and which of those tier 2 knows more about.

    T rows, of which A attend on tier 2, L are local, W are written only and M = L - W are both.
    """

    buckets: tuple[Bucket, ...]
    attended: torch.Tensor
    """`[A]`: rows that attend on tier 2."""
    written: torch.Tensor
    """`[W]`"""
    merged: torch.Tensor
    """`[M]`: local rows with positions before their entry's first."""


@dataclass(frozen=True, slots=True)
class LocalResult:
    """What local rows attended to among themselves; other rows' places hold nothing."""

    output: torch.Tensor
    """[T, H, D]"""
    log_sums: torch.Tensor
    """fp32 [T, H]"""


def find_local_rows(entries: Entries, device: torch.device) -> LocalRows | None:
    """Find the local rows of a microbatch; None if there are none.

    Shapes:
        entries: [R, 6]
    """
    local = is_local(entries)
    if not local.any():
        return None
    counts = entries[:, NUM_ROWS].astype(np.int64)
    starts = counts.cumsum() - counts  # [R]
    written = is_written(entries).repeat(counts)  # [T]
    merged = (local & (entries[:, START] > 0)).repeat(counts)  # [T]

    def on_device(array: NDArray[Any]) -> torch.Tensor:
        return torch.from_numpy(array).to(device)

    buckets = _buckets(starts[local], counts[local])
    return LocalRows(
        buckets=tuple(Bucket(on_device(rows), on_device(present)) for rows, present in buckets),
        attended=on_device(np.flatnonzero(~written)),
        written=on_device(np.flatnonzero(written)),
        merged=on_device(np.flatnonzero(merged)),
    )


def _buckets(
    starts: NDArray[np.int64], counts: NDArray[np.int64]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.bool_]]]:
    sizes = -(-counts // _BUCKET)
    for size in np.unique(sizes):
        chosen = sizes == size
        last = counts[chosen, None] - 1  # [n, 1]
        offsets = np.arange(last.max() + 1)
        # What only fills comes last, where the causal mask hides it from everything else.
        yield starts[chosen, None] + np.minimum(offsets, last), offsets <= last


def attend_locally(
    qkv: torch.Tensor, rows: LocalRows, num_kv_heads: int, window: int | None
) -> LocalResult:
    """Let the local rows of each entry attend to each other, causally.

    Args:
        qkv: Queries, keys and values of all rows, rotated.
        rows: The microbatch's.
        num_kv_heads: G.
        window: A row sees its last `window` positions, its own included; None: all.

    Shapes:
        qkv: [T, H + 2G, D]
    """
    num_rows, heads, head_size = qkv.shape
    num_heads = heads - 2 * num_kv_heads
    output = qkv.new_empty(num_rows, num_heads, head_size)
    log_sums = torch.empty(num_rows, num_heads, dtype=torch.float32, device=qkv.device)
    for bucket in rows.buckets:
        by_head = qkv[bucket.rows].transpose(1, 2)  # [n, H + 2G, length, D]
        queries, keys, values = torch.split(by_head, [num_heads, num_kv_heads, num_kv_heads], 1)
        group = num_heads // num_kv_heads
        keys, values = (each.repeat_interleave(group, dim=1) for each in (keys, values))
        attended, sums = _attend(queries, keys, values, window)
        places = bucket.rows[bucket.present]
        output[places] = attended.transpose(1, 2)[bucket.present]
        log_sums[places] = sums.transpose(1, 2)[bucket.present]
    return LocalResult(output, log_sums)


def merge(
    local: LocalResult,
    rows: LocalRows,
    attended: torch.Tensor,
    log_sums: torch.Tensor,
) -> torch.Tensor:
    """Bring together what was attended to on both tiers.

    Args:
        local: Of this layer.
        rows: The microbatch's.
        attended: What came back from tier 2.
        log_sums: Of the rows that both tiers know of.

    Shapes:
        attended: [A, H D], log_sums: [M, H] -> [T, H D]
    """
    output = local.output.clone()
    output[rows.attended] = attended.view(-1, *output.shape[1:])
    if len(rows.merged):
        share = torch.sigmoid(local.log_sums[rows.merged] - log_sums)[:, :, None]  # [M, H, 1]
        mixed = local.output[rows.merged].float() * share
        mixed += output[rows.merged].float() * (1.0 - share)
        output[rows.merged] = mixed.to(output.dtype)
    return output.flatten(1)


def _attend(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, window: int | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attend causally, with the logarithm of the sum of the exponentials of the scores.

    Shapes:
        queries, keys, values: [n, H, length, D] -> [n, H, length, D], fp32 [n, H, length]
    """
    length = queries.shape[2]
    bias = None
    if window is not None and window < length:
        ahead = torch.arange(length, device=queries.device)
        hidden = ahead[:, None] - ahead[None, :] >= window
        # GPU kernels ask that the mask's rows begin at multiples of so many numbers.
        aligned = -(-length // _ALIGNMENT) * _ALIGNMENT
        bias = torch.zeros(length, aligned, dtype=queries.dtype, device=queries.device)
        bias = bias[:, :length].masked_fill_(hidden, -torch.inf)
    if queries.device.type == "cpu":
        attended, sums = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            queries, keys, values, 0.0, True, attn_mask=bias
        )
        return attended, sums
    if bias is not None:
        bias = bias.expand(*queries.shape[:2], length, length)
    attended, sums, *_ = torch.ops.aten._scaled_dot_product_efficient_attention(
        queries, keys, values, bias, True, 0.0, True
    )
    return attended, sums[:, :, :length]
