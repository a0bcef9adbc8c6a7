"""Rotations are those of transformers, at the real models' settings."""

import pytest
import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from common.rope_spec import LinearScaling, Llama3Scaling, RopeSpec, YarnScaling
from services.layer_worker.rotary import rotation_table
from services.layer_worker.row_math import TorchRowMath

LLAMA31 = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
}
CASES = {
    "default": (RopeSpec(theta=1e4), {}),
    "linear": (RopeSpec(theta=1e4, scaling=LinearScaling(factor=4.0)), {"factor": 4.0}),
    "llama3": (
        RopeSpec(theta=5e5, scaling=Llama3Scaling(**LLAMA31, original_max_len=8192)),
        {**LLAMA31, "original_max_position_embeddings": 8192},
    ),
    "yarn": (
        RopeSpec(
            theta=1e6,
            scaling=YarnScaling(
                factor=4.0,
                original_max_len=32768,
                beta_fast=32.0,
                beta_slow=1.0,
                attention_factor=1.0,
                truncate=False,
            ),
        ),
        {
            "factor": 4.0,
            "original_max_position_embeddings": 32768,
            "attention_factor": 1.0,
            "truncate": False,
        },
    ),
}


@pytest.mark.parametrize("kind", CASES)
def test_rotated_heads_are_those_of_transformers(kind):
    rope, settings = CASES[kind]
    config = LlamaConfig(
        hidden_size=512,
        num_attention_heads=4,
        max_position_embeddings=131072,
        rope_parameters={"rope_type": kind, "rope_theta": rope.theta, **settings},
    )
    positions = torch.tensor([0, 1, 77, 4095, 8191])
    heads = torch.randn(5, 3, 128, generator=torch.Generator().manual_seed(0))
    cosine, sine = LlamaRotaryEmbedding(config)(heads, positions[None])
    first, second = heads.chunk(2, dim=-1)
    turned = torch.cat((-second, first), dim=-1)
    expected = heads * cosine[0][:, None] + turned * sine[0][:, None]

    TorchRowMath().rotate_(heads, positions, rotation_table(rope, 128, 8192))

    torch.testing.assert_close(heads, expected, rtol=0, atol=1e-5)
