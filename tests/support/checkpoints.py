"""Tiny random checkpoints of every family that is served, made with transformers.

They have no tokenizer: prompts are token ids below `VOCAB_SIZE`.
"""

import atexit
import tempfile
from collections.abc import Mapping
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
    Qwen3MoeConfig,
)
from transformers.utils.logging import disable_progress_bar

disable_progress_bar()  # type: ignore[no-untyped-call]

VOCAB_SIZE = 128
NUM_LAYERS = 4
MAX_MODEL_LEN = 512
WINDOW = 16
"""Of the families with a sliding window: less than the prompts of tests."""

_SMALL: Mapping[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 64,
    "intermediate_size": 100,
    "num_hidden_layers": NUM_LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": MAX_MODEL_LEN,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tie_word_embeddings": False,
    "rms_norm_eps": 1e-5,
}


def _rope(kind: str, **settings: float) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 10_000.0, **settings}}


_LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    # Short, so that the tiny heads have kept, blended and stretched frequencies.
    "original_max_position_embeddings": 64,
}

FAMILIES: Mapping[str, tuple[type[PretrainedConfig], Mapping[str, Any]]] = {
    "llama2": (LlamaConfig, {"num_key_value_heads": 4}),
    "llama3": (LlamaConfig, _rope("default", rope_theta=500_000.0)),
    "llama31": (LlamaConfig, {"rope_parameters": _LLAMA3_ROPE}),
    "llama32": (LlamaConfig, {"rope_parameters": _LLAMA3_ROPE, "tie_word_embeddings": True}),
    "llama_bias": (LlamaConfig, {"attention_bias": True, "mlp_bias": True}),
    "llama_linear": (LlamaConfig, _rope("linear", factor=4.0)),
    "llama_dynamic": (LlamaConfig, _rope("dynamic", factor=2.0)),
    "llama_yarn": (
        LlamaConfig,
        _rope("yarn", factor=8.0, original_max_position_embeddings=64),
    ),
    "mistral": (MistralConfig, {"sliding_window": WINDOW}),
    "mistral_full": (MistralConfig, {"sliding_window": None, "head_dim": 24}),
    "qwen2": (Qwen2Config, {"tie_word_embeddings": True}),
    "qwen25": (
        Qwen2Config,
        {
            **_rope("yarn", rope_theta=1e6, factor=4.0, original_max_position_embeddings=128),
            "use_sliding_window": True,
            "sliding_window": WINDOW,
            "max_window_layers": 2,
        },
    ),
    "qwen3": (Qwen3Config, {"head_dim": 32, "tie_word_embeddings": True}),
    "qwen3_bias": (Qwen3Config, {"attention_bias": True}),
    "mixtral": (MixtralConfig, {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "qwen3_moe": (
        Qwen3MoeConfig,
        {
            "num_experts": 6,
            "num_experts_per_tok": 3,
            "moe_intermediate_size": 40,
            "norm_topk_prob": True,
            "mlp_only_layers": [1],
        },
    ),
}
"""Config class and what differs from the smallest common config, by name."""


def make_checkpoint(
    directory: Path, family: str, *, max_shard_size: str = "1GB", **overrides: Any
) -> PreTrainedModel:
    """Save a random float32 checkpoint and return the same model of transformers.

    Args:
        directory: Made if it does not exist.
        family: A key of `FAMILIES`.
        max_shard_size: For example `100KB`, to get several shards and an index.
        overrides: Fields of the config, as transformers names them.
    """
    config_class, differences = FAMILIES[family]
    config = config_class(**{**_SMALL, **differences, **overrides})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32)  # type: ignore[no-untyped-call]
        for name, parameter in model.named_parameters():
            _randomize(name, parameter.data)
    model.eval()  # type: ignore[no-untyped-call]
    model.save_pretrained(directory, max_shard_size=max_shard_size)
    return model


@cache
def cached_checkpoint(family: str) -> tuple[Path, PreTrainedModel]:
    """Make a family's checkpoint once per test run; nobody may write to it."""
    directory = _temporary_directory() / family
    return directory, make_checkpoint(directory, family)


@lru_cache(maxsize=1)
def _temporary_directory() -> Path:
    directory = tempfile.TemporaryDirectory(prefix="checkpoints-")
    atexit.register(directory.cleanup)
    return Path(directory.name)


def _randomize(name: str, parameter: torch.Tensor) -> None:
    """Make every tensor matter: initial norms are ones and initial biases zeros, which hide bugs."""
    if name.endswith("norm.weight"):
        parameter.uniform_(0.5, 1.5)
    elif name.endswith("bias"):
        parameter.normal_(std=0.1)
    elif "embed_tokens" in name:
        parameter.normal_(std=0.5)
    else:
        parameter.normal_(std=1.0 / parameter.shape[-1] ** 0.5)
