"""The models that one may plan for without having them: their shapes, by name."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from common.errors import SettingsError
from common.model_spec import ModelSpec, read_model_spec
from common.policy.profile import ModelShape


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedModel:
    """What decides how large a model is and how long its layers take."""

    name: str
    num_layers: int
    shape: ModelShape

    @property
    def query_size(self) -> int:
        """Numbers in a row of queries."""
        return self.shape.num_heads * self.shape.head_size

    @property
    def kv_size(self) -> int:
        """Numbers in a row of keys, and of values."""
        return self.shape.num_kv_heads * self.shape.head_size

    @property
    def layer_weights(self) -> int:
        """Numbers in the weights of one layer."""
        width = self.shape.hidden_size
        attention = width * (2 * self.query_size + 2 * self.kv_size)
        return attention + 3 * width * self.shape.intermediate_size + 2 * width

    @property
    def table_weights(self) -> int:
        """Numbers in the embedding, or in the classifier."""
        return self.shape.vocab_size * self.shape.hidden_size

    def weight_bytes(self, num_layers: int, *, embeds: bool, classifies: bool) -> int:
        """Give the bytes of a layer range's weights, of 16 bits."""
        tables = (embeds + classifies) * self.table_weights
        return 2 * (num_layers * self.layer_weights + tables + classifies * self.shape.hidden_size)

    def config(self, max_model_len: int) -> dict[str, object]:
        """Give the `config.json` of a checkpoint of this shape."""
        shape = self.shape
        return {
            "model_type": "llama",
            "hidden_size": shape.hidden_size,
            "intermediate_size": shape.intermediate_size,
            "num_hidden_layers": self.num_layers,
            "num_attention_heads": shape.num_heads,
            "num_key_value_heads": shape.num_kv_heads,
            "head_dim": shape.head_size,
            "vocab_size": shape.vocab_size,
            "max_position_embeddings": max_model_len,
            "eos_token_id": _END_OF_SEQUENCE,
            "dtype": "bfloat16",
        }


_END_OF_SEQUENCE = 2


def _llama(num_layers: int, *sizes: int) -> tuple[int, ModelShape]:
    names = ("hidden_size", "intermediate_size", "num_heads", "num_kv_heads", "vocab_size")
    return num_layers, ModelShape(**dict(zip(names, sizes, strict=True)), head_size=128)


_SHAPES: Final[Mapping[str, tuple[int, ModelShape]]] = {
    "llama-2-7b": _llama(32, 4096, 11008, 32, 32, 32000),
    "llama-2-13b": _llama(40, 5120, 13824, 40, 40, 32000),
    "llama-2-70b": _llama(80, 8192, 28672, 64, 8, 32000),
    "llama-3-8b": _llama(32, 4096, 14336, 32, 8, 128256),
    "llama-3-70b": _llama(80, 8192, 28672, 64, 8, 128256),
    "mistral-7b": _llama(32, 4096, 14336, 32, 8, 32768),
    "qwen2.5-32b": _llama(64, 5120, 27648, 40, 8, 152064),
}

MODELS: Final[Mapping[str, PlannedModel]] = {
    name: PlannedModel(name=name, num_layers=num_layers, shape=shape)
    for name, (num_layers, shape) in _SHAPES.items()
}
"""Published shapes, by the names that `--model` takes."""


def find_model(name: str) -> PlannedModel:
    """Give a model by name, or by the directory of a checkpoint; weights need not be there.

    Raises:
        SettingsError: There is neither.
        ModelRefused: The directory's config is not that of a model we serve.
    """
    if name in MODELS:
        return MODELS[name]
    directory = Path(name).expanduser()
    if not (directory / "config.json").is_file():
        raise SettingsError(
            f"model {name} is neither known ({', '.join(MODELS)}) nor a directory with config.json"
        )
    return of_spec(directory.name, read_model_spec(directory))


def of_spec(name: str, spec: ModelSpec) -> PlannedModel:
    """Give what planning has to know of a checkpoint."""
    shape = ModelShape(**{field: getattr(spec, field) for field in ModelShape.model_fields})
    return PlannedModel(name=name, num_layers=spec.num_layers, shape=shape)
