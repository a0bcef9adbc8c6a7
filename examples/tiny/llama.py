"""A small Llama in plain torch, just large enough to train: no cache, no sharding.

Modules carry the names of a Hugging Face checkpoint, so the state dict is the file's content.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True, slots=True, kw_only=True)
class LlamaShape:
    """The sizes that define a Llama."""

    vocabulary_size: int
    width: int = 192
    ffn_width: int = 512
    num_layers: int = 4
    num_heads: int = 6
    num_kv_heads: int = 2
    rope_theta: float = 10000.0
    norm_epsilon: float = 1e-5
    max_positions: int = 512

    @property
    def head_size(self) -> int:
        """Give the width of one head."""
        return self.width // self.num_heads


def rotary_table(shape: LlamaShape, num_positions: int) -> Tensor:
    """Tabulate the rotation of every position.

    Returns:
        Cosines and sines, `[2, num_positions, head_size]`.

    Source: RoFormer, section 3.4, arXiv:2104.09864, with the halves of a head as pairs.
    """
    exponents = torch.arange(0, shape.head_size, 2, dtype=torch.float32) / shape.head_size
    angles = torch.outer(torch.arange(num_positions), shape.rope_theta**-exponents)  # [T, D/2]
    angles = torch.cat([angles, angles], dim=-1)  # [T, D]
    return torch.stack([angles.cos(), angles.sin()])  # [2, T, D]


def rotate(heads: Tensor, table: Tensor) -> Tensor:
    """Turn each head `[B, H, T, D]` by its position."""
    first, second = heads.chunk(2, dim=-1)
    cosines, sines = table.to(heads.dtype)
    rotated: Tensor = heads * cosines + torch.cat([-second, first], dim=-1) * sines
    return rotated


class SelfAttention(nn.Module):
    """Causal attention in which several query heads share a key-value head."""

    def __init__(self, shape: LlamaShape) -> None:
        super().__init__()
        self.head_size = shape.head_size
        kv_width = shape.num_kv_heads * shape.head_size
        self.q_proj = nn.Linear(shape.width, shape.width, bias=False)
        self.k_proj = nn.Linear(shape.width, kv_width, bias=False)
        self.v_proj = nn.Linear(shape.width, kv_width, bias=False)
        self.o_proj = nn.Linear(shape.width, shape.width, bias=False)

    def forward(self, hidden: Tensor, table: Tensor) -> Tensor:
        """Mix every row `[B, T, W]` with the rows before it."""
        queries = rotate(self._split(self.q_proj(hidden)), table)  # [B, H, T, D]
        keys = rotate(self._split(self.k_proj(hidden)), table)  # [B, G, T, D]
        values = self._split(self.v_proj(hidden))  # [B, G, T, D]
        mixed = functional.scaled_dot_product_attention(
            queries, keys, values, is_causal=True, enable_gqa=True
        )
        output: Tensor = self.o_proj(mixed.transpose(1, 2).flatten(2))  # [B, T, W]
        return output

    def _split(self, rows: Tensor) -> Tensor:
        heads = rows.reshape(*rows.shape[:2], -1, self.head_size)  # [B, T, heads, D]
        return heads.transpose(1, 2)  # [B, heads, T, D]


class FeedForward(nn.Module):
    """The gated feed-forward half of a layer."""

    def __init__(self, shape: LlamaShape) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(shape.width, shape.ffn_width, bias=False)
        self.up_proj = nn.Linear(shape.width, shape.ffn_width, bias=False)
        self.down_proj = nn.Linear(shape.ffn_width, shape.width, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        """Transform every row `[B, T, W]` on its own."""
        gated = functional.silu(self.gate_proj(hidden)) * self.up_proj(hidden)
        output: Tensor = self.down_proj(gated)
        return output


class Layer(nn.Module):
    """One Llama block."""

    def __init__(self, shape: LlamaShape) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(shape.width, shape.norm_epsilon)
        self.self_attn = SelfAttention(shape)
        self.post_attention_layernorm = nn.RMSNorm(shape.width, shape.norm_epsilon)
        self.mlp = FeedForward(shape)

    def forward(self, hidden: Tensor, table: Tensor) -> Tensor:
        """Add attention, then the feed-forward, to the residual `[B, T, W]`."""
        hidden = hidden + self.self_attn(self.input_layernorm(hidden), table)
        output: Tensor = hidden + self.mlp(self.post_attention_layernorm(hidden))
        return output


class Llama(nn.Module):
    """Token ids in, last hidden states out; the embedding is also the output matrix."""

    def __init__(self, shape: LlamaShape) -> None:
        super().__init__()
        self.shape = shape
        self.embed_tokens = nn.Embedding(shape.vocabulary_size, shape.width)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.num_layers))
        self.norm = nn.RMSNorm(shape.width, shape.norm_epsilon)
        self._initialise()

    def forward(self, token_ids: Tensor) -> Tensor:
        """Run rows of token ids `[B, T]` from position 0 to hidden states `[B, T, W]`."""
        table = rotary_table(self.shape, token_ids.shape[1])
        hidden: Tensor = self.embed_tokens(token_ids)
        for layer in self.layers:
            hidden = layer(hidden, table)
        output: Tensor = self.norm(hidden)
        return output

    def logits(self, hidden: Tensor) -> Tensor:
        """Score the vocabulary for any rows of hidden states `[…, W]`."""
        return functional.linear(hidden, self.embed_tokens.weight)

    def _initialise(self) -> None:
        for name, weight in self.named_parameters():
            if weight.ndim == 2:
                # What a layer adds shrinks with depth, so that the residual keeps its scale.
                adds = name.endswith(("o_proj.weight", "down_proj.weight"))
                nn.init.normal_(weight, std=0.02 / (2 * self.shape.num_layers) ** (adds / 2))
