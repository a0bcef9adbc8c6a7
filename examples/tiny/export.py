"""Write the trained weights as a Hugging Face directory."""

import json
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models

from examples.tiny.llama import Llama, LlamaShape
from examples.tiny.vocabulary import (
    ASSISTANT,
    CHARACTERS,
    END,
    SPECIAL_TOKENS,
    START,
    TOKEN_IDS,
    UNKNOWN,
    USER,
)

CHAT_TEMPLATE: Final = (
    f"{START}"
    "{% set state = namespace(system='') %}"
    "{% for message in messages %}"
    "{% if message.role == 'system' %}{% set state.system = message.content + '\\n' %}"
    "{% elif message.role == 'user' %}"
    f"{USER}{{{{ state.system + message.content }}}}{{% set state.system = '' %}}"
    "{% elif message.role == 'assistant' %}"
    f"{ASSISTANT}{{{{ message.content }}}}{END}"
    "{% endif %}"
    "{% endfor %}"
    f"{{% if add_generation_prompt %}}{ASSISTANT}{{% endif %}}"
)
"""A system message becomes the first line of the user message after it."""


def write_model(model: Llama, folder: Path) -> None:
    """Write weights, configuration and tokenizer, replacing what is there."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {
        f"model.{name}": weight.detach().to(torch.bfloat16).contiguous()
        for name, weight in model.named_parameters()
    }
    path = folder / "model.safetensors"
    save_file(weights, path, metadata={"format": "pt"})
    path.chmod(0o644)  # safetensors lets only the owner read
    build_tokenizer().save(str(folder / "tokenizer.json"))
    _write_json(folder / "config.json", _model_config(model.shape))
    _write_json(folder / "generation_config.json", _generation_config())
    _write_json(folder / "tokenizer_config.json", _tokenizer_config(model.shape))


def build_tokenizer() -> Tokenizer:
    """Build the character tokenizer.

    Byte-pair encoding without merges leaves single characters, and fusing them on the way back
    adds no space. No token is a byte, but a decoder that knows bytes is one that llguidance knows.
    """
    vocabulary = {token: TOKEN_IDS[token] for token in (*SPECIAL_TOKENS, *CHARACTERS)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token=UNKNOWN))
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS]
    )
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    return tokenizer


def _model_config(shape: LlamaShape) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "torch_dtype": "bfloat16",
        "vocab_size": shape.vocabulary_size,
        "hidden_size": shape.width,
        "intermediate_size": shape.ffn_width,
        "num_hidden_layers": shape.num_layers,
        "num_attention_heads": shape.num_heads,
        "num_key_value_heads": shape.num_kv_heads,
        "head_dim": shape.head_size,
        "hidden_act": "silu",
        "rms_norm_eps": shape.norm_epsilon,
        "rope_theta": shape.rope_theta,
        "rope_scaling": None,
        "max_position_embeddings": shape.max_positions,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": True,
        **_generation_config(),
    }


def _generation_config() -> dict[str, Any]:
    return {"bos_token_id": TOKEN_IDS[START], "eos_token_id": TOKEN_IDS[END]}


def _tokenizer_config(shape: LlamaShape) -> dict[str, Any]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": shape.max_positions,
        "bos_token": START,
        "eos_token": END,
        "unk_token": UNKNOWN,
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
