"""The same attention in torch, on keys and values that lie in one piece: what to compare with."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch.nn.functional import scaled_dot_product_attention

from services.admin.bench.attention_work import AttentionWork

_MATMUL_SIZE = 4096

Layers = Sequence[Callable[[], torch.Tensor]]
"""The work of each layer."""


def other_ways(work: AttentionWork, num_threads: int) -> Mapping[str, Layers]:
    """List other ways to do the work, in bf16; `matmul` is one product of as many operations."""
    torch.set_num_threads(num_threads)
    layers = [_make_layer(work) for _ in range(work.num_layers)]
    position = torch.arange(work.context)
    seen = position <= position[-work.num_rows :, None]  # [n, S]
    group = work.q_heads // work.kv_heads

    def sdpa(queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        return scaled_dot_product_attention(
            queries, keys, values, attn_mask=seen, enable_gqa=group > 1
        )

    def folded(queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        return scaled_dot_product_attention(queries.view(*keys.shape[:2], group, -1), keys, values)

    def batched(queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        scores = queries.view(*keys.shape[:2], group, -1) @ keys.mT  # [B, G, H/G, S]
        return torch.matmul((scores * work.head_dim**-0.5).softmax(-1), values)

    def each(way: Callable[..., torch.Tensor]) -> Layers:
        return [partial(way, *layer) for layer in layers]

    if work.phase == "prefill":
        return {"sdpa": each(sdpa), "matmul": [_matmul(work.operations)]}
    return {"sdpa": each(sdpa), "sdpa_folded": each(folded), "batched_matmul": each(batched)}


def _make_layer(work: AttentionWork) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Make queries `[B, H, n, D]`, keys and values, both `[B, G, S, D]`."""
    queries = torch.randn(work.batch, work.q_heads, work.num_rows, work.head_dim)
    shape = (work.batch, work.kv_heads, work.context, work.head_dim)
    keys, values = (torch.ones(shape, dtype=torch.bfloat16) for _ in range(2))
    return queries.bfloat16(), keys, values


def _matmul(operations: int) -> Callable[[], torch.Tensor]:
    rows = max(1, round(operations / (2 * _MATMUL_SIZE**2)))
    left = torch.randn(rows, _MATMUL_SIZE).bfloat16()
    right = torch.randn(_MATMUL_SIZE, _MATMUL_SIZE).bfloat16()
    return lambda: left @ right
