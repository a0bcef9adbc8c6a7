"""What a model is: the numbers of its config, without its weights and without torch."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from common.config_json import ConfigJson
from common.errors import ModelRefused
from common.moe_spec import MoeSpec, read_moe_spec
from common.packing_spec import PackingSpec, read_packing_spec
from common.rope_spec import RopeSpec, read_rope_spec

_FAMILIES: Final[Mapping[str, str]] = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "mixtral": "MixtralForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM",
}
"""The architecture that we serve of each model type."""

_DTYPES: Final[Mapping[str, str]] = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}

_MISTRAL_WINDOW: Final = 4096
_QWEN3_HEAD_SIZE: Final = 128

_HUB_FILES: Final = ["*.json", "*.jinja", "*.safetensors", "tokenizer.model"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """A decoder-only transformer: all that a service must know to run or to size it."""

    num_layers: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_size: int
    vocab_size: int

    max_model_len: int
    """Tokens of prompt and output that the model can tell apart; settings may only lower it."""

    rms_norm_eps: float
    tied_embeddings: bool
    """The classifier is the embedding, unless the checkpoint has one of its own."""

    qkv_bias: bool
    output_bias: bool
    mlp_bias: bool
    qk_norm: bool
    """Queries and keys are normalised per head before they are rotated."""

    sliding_windows: tuple[int | None, ...]
    """Per layer: a token at position p attends to `(p - window, p]`; None is `[0, p]`."""

    moe: MoeSpec | None
    """The experts that some layers have in place of one MLP; None if the model is dense."""

    packing: PackingSpec | None
    """How the weights of the layers' linears are packed into 4 bits; None if they are not."""

    rope: RopeSpec
    dtype: str
    """What the checkpoint was saved in: `bf16`, `fp16` or `fp32`."""

    eos_token_ids: tuple[int, ...]
    bos_token_id: int | None

    @property
    def query_size(self) -> int:
        """Numbers in a row of queries, and of attention's result."""
        return self.num_heads * self.head_size

    @property
    def kv_size(self) -> int:
        """Numbers in a row of keys, and of values."""
        return self.num_kv_heads * self.head_size

    @property
    def qkv_size(self) -> int:
        """Numbers in a row of queries, keys and values together."""
        return self.query_size + 2 * self.kv_size

    def fingerprint(self) -> str:
        """Give 16 hex digits that are equal only for equal specs."""
        return hashlib.sha256(repr(self).encode()).hexdigest()[:16]


def read_model_spec(directory: Path) -> ModelSpec:
    """Read `config.json`, and the end tokens of `generation_config.json`.

    Raises:
        ModelRefused: The model is of a kind that is not served, or its config is damaged.
    """
    config = ConfigJson.read(directory / "config.json")
    family = _read_family(config)
    hidden_size = config.integer("hidden_size")
    num_heads = config.integer("num_attention_heads")
    num_layers = config.integer("num_hidden_layers")
    rope = read_rope_spec(config)
    attention_bias = family in ("llama", "qwen3", "qwen3_moe") and config.flag("attention_bias")
    head_size = _QWEN3_HEAD_SIZE if family == "qwen3" else max(hidden_size // num_heads, 1)
    spec = ModelSpec(
        num_layers=num_layers,
        hidden_size=hidden_size,
        intermediate_size=config.integer("intermediate_size"),
        num_heads=num_heads,
        num_kv_heads=config.integer("num_key_value_heads", num_heads),
        head_size=config.integer("head_dim", head_size),
        vocab_size=config.integer("vocab_size"),
        max_model_len=rope.reach(config.integer("max_position_embeddings")),
        rms_norm_eps=config.number("rms_norm_eps", 1e-6),
        tied_embeddings=config.flag("tie_word_embeddings"),
        qkv_bias=family == "qwen2" or attention_bias,
        output_bias=attention_bias,
        mlp_bias=family == "llama" and config.flag("mlp_bias"),
        qk_norm=family in ("qwen3", "qwen3_moe"),
        sliding_windows=_read_windows(config, family, num_layers),
        moe=read_moe_spec(config, family, num_layers),
        packing=read_packing_spec(config),
        rope=rope,
        dtype=_read_dtype(config),
        eos_token_ids=_read_eos_token_ids(directory, config),
        bos_token_id=next(iter(config.token_ids("bos_token_id")), None),
    )
    _check_heads(config, spec)
    return spec


def resolve_model(path_or_hub_id: str) -> Path:
    """Find a checkpoint's directory, downloading it if this is a hub id.

    Raises:
        ModelRefused: There is no such directory, or the hub does not give it.
    """
    directory = Path(path_or_hub_id).expanduser()
    if directory.is_dir():
        return directory
    if path_or_hub_id.startswith(("/", ".", "~")) or path_or_hub_id.count("/") > 1:
        raise ModelRefused(f"{path_or_hub_id} is not a directory: give one, or a hub id ORG/NAME")
    try:
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(path_or_hub_id, allow_patterns=_HUB_FILES))
    except (ImportError, OSError, ValueError) as error:
        reason = str(error).strip().split("\n", 1)[0]
        raise ModelRefused(
            f"{path_or_hub_id} is neither a directory nor to be had from the hub ({reason})"
        ) from error


def _read_family(config: ConfigJson) -> str:
    served = ", ".join(_FAMILIES)
    family = config.text("model_type", "missing")
    if family not in _FAMILIES:
        raise ModelRefused(f"{config.name}: model_type {family} is not served, only {served} are")
    architectures = config.fields.get("architectures") or [_FAMILIES[family]]
    if architectures != [_FAMILIES[family]]:
        raise ModelRefused(
            f"{config.name}: architectures is {architectures}, only {_FAMILIES[family]} is served"
        )
    activation = config.text("hidden_act", "silu")
    if activation != "silu":
        raise ModelRefused(f"{config.name}: hidden_act {activation} is not served, only silu is")
    return family


def _read_windows(config: ConfigJson, family: str, num_layers: int) -> tuple[int | None, ...]:
    if family == "mistral":
        # Here null is no window, while a missing key is transformers' default.
        disabled = config.fields.get("sliding_window", _MISTRAL_WINDOW) is None
        window = None if disabled else config.integer("sliding_window", _MISTRAL_WINDOW)
        return (window,) * num_layers
    if family in ("mixtral", "qwen3_moe"):
        unused = config.fields.get("sliding_window") is None or (
            family == "qwen3_moe" and not config.flag("use_sliding_window")
        )
        return (None if unused else config.integer("sliding_window"),) * num_layers
    if family == "llama" or not config.flag("use_sliding_window"):
        return (None,) * num_layers
    window = config.integer("sliding_window", _MISTRAL_WINDOW)
    first = config.fields.get("max_window_layers", 28)
    match config.fields.get("layer_types"):
        case None if isinstance(first, int):
            return tuple(window if layer >= first else None for layer in range(num_layers))
        case list(kinds) if len(kinds) == num_layers:
            of_kind = {"sliding_attention": window, "full_attention": None}
            if all(kind in of_kind for kind in kinds):
                return tuple(of_kind[kind] for kind in kinds)
    raise ModelRefused(
        f"{config.name}: layer_types must name sliding_attention or full_attention for each of "
        f"the {num_layers} layers"
    )


def _read_dtype(config: ConfigJson) -> str:
    name = config.text("dtype", config.text("torch_dtype", "float32")).removeprefix("torch.")
    if name not in _DTYPES:
        raise ModelRefused(
            f"{config.name}: dtype {name} is not served, only {', '.join(_DTYPES)} are"
        )
    return _DTYPES[name]


def _read_eos_token_ids(directory: Path, config: ConfigJson) -> tuple[int, ...]:
    token_ids = config.token_ids("eos_token_id")
    path = directory / "generation_config.json"
    if path.exists():
        token_ids += ConfigJson.read(path).token_ids("eos_token_id")
    return tuple(dict.fromkeys(token_ids))


def _check_heads(config: ConfigJson, spec: ModelSpec) -> None:
    if spec.head_size % 2:
        raise ModelRefused(f"{config.name}: head_dim {spec.head_size} is odd, which rotary is not")
    if spec.num_heads % spec.num_kv_heads:
        raise ModelRefused(
            f"{config.name}: {spec.num_heads} attention heads cannot share "
            f"{spec.num_kv_heads} key-value heads"
        )
