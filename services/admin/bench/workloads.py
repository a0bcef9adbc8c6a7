"""The workloads that figures are published for: random checkpoints, and batch files for them."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np

from common.errors import SettingsError

CACHE: Final = Path.home() / ".cache" / "glinthawk"
"""Where random checkpoints are kept."""

_RANDOM = "random:"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A Llama checkpoint's numbers."""

    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    vocab_size: int
    tied: bool
    max_positions: int = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Requests that are all submitted at once; greedy, end of sequence ignored."""

    model: str
    """A checkpoint, or `random:` and the name of a shape."""
    num_requests: int
    prompt_tokens: int
    output_tokens: int


SHAPES: Final = {
    "llama-300m": Shape(
        hidden_size=1024,
        intermediate_size=2816,
        num_layers=24,
        num_heads=16,
        num_kv_heads=4,
        vocab_size=32000,
        tied=False,
    ),
    "stories-110m": Shape(
        hidden_size=768,
        intermediate_size=2048,
        num_layers=12,
        num_heads=12,
        num_kv_heads=12,
        vocab_size=32000,
        tied=True,
    ),
    "llama-8b-4-layers": Shape(
        hidden_size=4096,
        intermediate_size=14336,
        num_layers=4,
        num_heads=32,
        num_kv_heads=8,
        vocab_size=32000,
        tied=False,
    ),
    "llama-wide-heads": Shape(
        hidden_size=1024,
        intermediate_size=2816,
        num_layers=8,
        num_heads=8,
        num_kv_heads=2,
        vocab_size=32000,
        tied=True,
        max_positions=16384,
    ),
}

_300M = "random:llama-300m"
_110M = "random:stories-110m"
WORKLOADS: Final = {
    "A": Workload(model=_300M, num_requests=64, prompt_tokens=256, output_tokens=128),
    "B": Workload(model=_300M, num_requests=32, prompt_tokens=1024, output_tokens=128),
    "C": Workload(model=_110M, num_requests=64, prompt_tokens=32, output_tokens=224),
}


def choose_workload(name: str, **changes: str | int | None) -> Workload:
    """Give a workload by its letter, with what is not None changed."""
    given = {field: value for field, value in changes.items() if value is not None}
    return replace(WORKLOADS[name], **given)  # type: ignore[arg-type]


def find_model(name: str) -> str:
    """Give the checkpoint that a name stands for; a random one is made once, in the cache.

    Raises:
        SettingsError: No shape has this name.
    """
    if not name.startswith(_RANDOM):
        return name
    shape = SHAPES.get(name.removeprefix(_RANDOM))
    if shape is None:
        known = ", ".join(_RANDOM + each for each in SHAPES)
        raise SettingsError(f"--model {name} is not known, only {known} are")
    return str(make_checkpoint(CACHE / name.removeprefix(_RANDOM), shape))


def make_checkpoint(directory: Path, shape: Shape) -> Path:
    """Write a random checkpoint (normal, deviation 0.02, seed 0, bf16) unless it is there."""
    if (directory / "config.json").exists():
        return directory
    # Only here, once per checkpoint: the command otherwise does without.
    import torch
    from safetensors.torch import save_file

    directory.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(0)

    def random(*size: int) -> torch.Tensor:
        return (torch.randn(*size, generator=generator) * 0.02).to(torch.bfloat16)

    width, inner = shape.hidden_size, shape.intermediate_size
    kv_width = width // shape.num_heads * shape.num_kv_heads
    ones = torch.ones(width, dtype=torch.bfloat16)
    tensors = {"model.embed_tokens.weight": random(shape.vocab_size, width)}
    for layer in range(shape.num_layers):
        prefix = f"model.layers.{layer}"
        tensors |= {
            f"{prefix}.input_layernorm.weight": ones.clone(),
            f"{prefix}.post_attention_layernorm.weight": ones.clone(),
            f"{prefix}.self_attn.q_proj.weight": random(width, width),
            f"{prefix}.self_attn.k_proj.weight": random(kv_width, width),
            f"{prefix}.self_attn.v_proj.weight": random(kv_width, width),
            f"{prefix}.self_attn.o_proj.weight": random(width, width),
            f"{prefix}.mlp.gate_proj.weight": random(inner, width),
            f"{prefix}.mlp.up_proj.weight": random(inner, width),
            f"{prefix}.mlp.down_proj.weight": random(width, inner),
        }
    tensors["model.norm.weight"] = ones
    if not shape.tied:
        tensors["lm_head.weight"] = random(shape.vocab_size, width)
    save_file(tensors, directory / "model.safetensors")
    (directory / "config.json").write_text(json.dumps(_config(shape), indent=2))
    return directory


def _config(shape: Shape) -> dict[str, object]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": shape.hidden_size,
        "intermediate_size": shape.intermediate_size,
        "num_hidden_layers": shape.num_layers,
        "num_attention_heads": shape.num_heads,
        "num_key_value_heads": shape.num_kv_heads,
        "vocab_size": shape.vocab_size,
        "tie_word_embeddings": shape.tied,
        "max_position_embeddings": shape.max_positions,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "torch_dtype": "bfloat16",
        "bos_token_id": 1,
        "eos_token_id": 2,
    }


def make_prompts(workload: Workload, vocab_size: int, seed: int) -> list[list[int]]:
    """Draw a workload's prompts: random token ids."""
    random = np.random.default_rng(seed)
    prompts = random.integers(3, vocab_size, (workload.num_requests, workload.prompt_tokens))
    return [[int(token) for token in prompt] for prompt in prompts]


def write_batch(path: Path, workload: Workload, prompts: list[list[int]]) -> Path:
    """Write the batch file of a workload with these prompts."""
    lines = [make_line(number, workload, prompt) for number, prompt in enumerate(prompts)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def make_line(number: int, workload: Workload, prompt: list[int]) -> dict[str, object]:
    """Give the line of a workload's batch file that has this number and this prompt."""
    return {
        "custom_id": f"{number}",
        "method": "POST",
        "url": "/v1/completions",
        "body": {
            "model": workload.model,
            "prompt": prompt,
            "max_tokens": workload.output_tokens,
            "temperature": 0,
            "ignore_eos": True,
        },
    }
