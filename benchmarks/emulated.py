"""What clusters whose workers compute nothing are made of, for benchmarks of everything else.

The model is narrow by default: activations never pass through the router.
"""

import json
from pathlib import Path
from typing import Final

from tokenizers import Tokenizer, models, pre_tokenizers

from common.policy.profile import AttentionTimes, LayerTimes, ModelShape, Profile

VOCAB_SIZE: Final = 32000

NARROW: Final = ModelShape(
    hidden_size=64,
    intermediate_size=64,
    num_heads=2,
    num_kv_heads=1,
    head_size=32,
    vocab_size=VOCAB_SIZE,
)


def layer_options(
    folder: Path, stage_s: float, shape: ModelShape = NARROW
) -> dict[str, str | Path]:
    """Give the options of a layer worker whose stages all take so long."""
    times = (stage_s, stage_s)
    layer = LayerTimes(rows=(1, 2), pre_s=times, post_s=times, classify_s=times)
    return _emulated(_write(folder / "layer.json", layer=layer, model=shape))


def attention_options(folder: Path) -> dict[str, str | Path]:
    """Give the options of an attention worker for which nothing takes time."""
    times = AttentionTimes(kv_bytes_per_s=1e15, flops_per_s=1e18, overhead_s=0.0)
    profile = _write(folder / "attention.json", attention=times)
    return {**_emulated(profile), "kv-memory": "64GiB"}


def write_tokenizer(directory: Path) -> None:
    """Write a tokenizer whose words are numbers, so that every token has a text."""
    words = {f"w{number}": number for number in range(VOCAB_SIZE)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(directory / "tokenizer.json"))


def _emulated(profile: Path) -> dict[str, str | Path]:
    return {"compute": "emulated", "profile": profile}


def write_model(directory: Path, num_layers: int, shape: ModelShape = NARROW) -> Path:
    """Write a configuration without weights."""
    config = {
        "model_type": "llama",
        "hidden_size": shape.hidden_size,
        "intermediate_size": shape.intermediate_size,
        "num_hidden_layers": num_layers,
        "num_attention_heads": shape.num_heads,
        "num_key_value_heads": shape.num_kv_heads,
        "vocab_size": shape.vocab_size,
        "max_position_embeddings": 4096,
        "eos_token_id": 2,
    }
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(config))
    return directory


def _write(path: Path, **parts: ModelShape | LayerTimes | AttentionTimes) -> Path:
    profile = Profile.model_validate(
        {
            "version": 1,
            "node": "free",
            "source": "roofline",
            "assumptions": {"all": "nothing takes time"},
            "dtype": "bf16",
            **parts,
        }
    )
    path.write_text(profile.model_dump_json())
    return path
