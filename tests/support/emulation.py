"""A model without weights, and profiles for it, for clusters that compute nothing."""

import json
from pathlib import Path

from common.policy.profile import AttentionTimes, LayerTimes, ModelShape, Profile

SHAPE = ModelShape(
    hidden_size=64,
    intermediate_size=128,
    num_heads=4,
    num_kv_heads=2,
    head_size=16,
    vocab_size=100,
)
NUM_LAYERS = 4
LAYER_PROFILE = Profile(
    version=1,
    node="tester",
    source="measured",
    assumptions={},
    dtype="fp32",
    model=SHAPE,
    layer=LayerTimes(rows=(1, 9), pre_s=(0.001, 0.009), post_s=(0.01, 0.09), classify_s=(0.1, 0.9)),
)
ATTENTION_PROFILE = Profile(
    version=1,
    node="tester",
    source="measured",
    assumptions={},
    dtype="fp32",
    attention=AttentionTimes(kv_bytes_per_s=1e6, flops_per_s=1e6, overhead_s=0.5),
)


def write_config(directory: Path) -> Path:
    """Write what a checkpoint says about its model, without weights."""
    config = {
        "model_type": "llama",
        "hidden_size": SHAPE.hidden_size,
        "intermediate_size": SHAPE.intermediate_size,
        "num_hidden_layers": NUM_LAYERS,
        "num_attention_heads": SHAPE.num_heads,
        "num_key_value_heads": SHAPE.num_kv_heads,
        "vocab_size": SHAPE.vocab_size,
        "max_position_embeddings": 512,
        "eos_token_id": 2,
        "torch_dtype": "float32",
    }
    directory.mkdir(exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config))
    return directory


def write_profile(path: Path, profile: Profile) -> Path:
    path.write_text(profile.model_dump_json())
    return path
