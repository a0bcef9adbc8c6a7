"""What a checkpoint's safetensors files promise, read without torch and without their tensors."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Final

from common.config_json import ConfigJson
from common.errors import ModelRefused
from common.model_spec import ModelSpec

EMBEDDING: Final = "model.embed_tokens.weight"
CLASSIFIER: Final = "lm_head.weight"
FINAL_NORM: Final = "model.norm.weight"

_SINGLE: Final = "model.safetensors"
_INDEX: Final = "model.safetensors.index.json"
_DTYPES: Final = ("BF16", "F16", "F32")

_LENGTH_BYTES: Final = 8
"""A file starts with the length of its JSON header, little-endian."""

_MAX_HEADER_BYTES: Final = 100_000_000
"""The format's own limit."""

_SAMPLES: Final = 64
_SAMPLE_BYTES: Final = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorHeader:
    """Where a tensor is, what it is, and how large."""

    file: Path
    dtype: str
    """In safetensors' words, such as `BF16`."""

    shape: tuple[int, ...]
    size_bytes: int


def read_headers(directory: Path) -> dict[str, TensorHeader]:
    """Read what every tensor of a checkpoint is, from one file or from all shards of an index.

    Raises:
        ModelRefused: A file is missing, truncated or of another format; names it.
    """
    headers: dict[str, TensorHeader] = {}
    for file in _weight_files(directory):
        headers |= _read_file(file)
    return headers


def check_checkpoint(directory: Path, spec: ModelSpec) -> None:
    """Refuse a checkpoint whose tensors are not those of its config.

    Raises:
        ModelRefused: A file or a tensor is missing, truncated or of a wrong shape; names it.
    """
    check_tensors(read_headers(directory), spec, 0, spec.num_layers)


def check_tensors(
    headers: Mapping[str, TensorHeader], spec: ModelSpec, start: int, stop: int
) -> None:
    """Refuse a checkpoint that lacks a tensor of the layers `[start, stop)`.

    Raises:
        ModelRefused: A tensor is missing, or of a wrong shape or dtype; names it.
    """
    for name, shape, dtypes in _expected(headers, spec, start, stop):
        header = headers.get(name)
        if header is None:
            raise ModelRefused(f"the checkpoint has no tensor {name}: download it again")
        if header.shape != shape:
            raise ModelRefused(
                f"{header.file}: {name} is {list(header.shape)}, by config.json it is {list(shape)}"
            )
        if header.dtype not in dtypes:
            raise ModelRefused(
                f"{header.file}: {name} is {header.dtype}: take the bf16, fp16 or fp32 checkpoint"
            )


def size_bytes(headers: Mapping[str, TensorHeader], spec: ModelSpec, start: int, stop: int) -> int:
    """Give the bytes of the layers `[start, stop)` in the files, of a checkpoint that was checked."""
    return sum(headers[name].size_bytes for name, _, _ in _expected(headers, spec, start, stop))


def classifier_name(headers: Mapping[str, TensorHeader], spec: ModelSpec) -> str:
    """Name the tensor that classifies: its own if there is one, else the tied embedding."""
    return EMBEDDING if spec.tied_embeddings and CLASSIFIER not in headers else CLASSIFIER


def model_fingerprint(directory: Path, spec: ModelSpec, *, emulated: bool) -> str:
    """Give a text that is equal only for equal models; an emulated one needs no weights.

    Raises:
        ModelRefused: A file is missing, truncated or of another format; names it.
    """
    weights = "emulated" if emulated else weights_fingerprint(directory)
    return f"{spec.fingerprint()}-{weights}"


def weights_fingerprint(directory: Path) -> str:
    """Give 16 hex digits that differ between checkpoints, from headers, sizes and samples.

    Raises:
        ModelRefused: A file is missing, truncated or of another format; names it.
    """
    digest = hashlib.sha256()
    for file in _weight_files(directory):
        size = file.stat().st_size
        with file.open("rb") as stream:
            header_bytes = int.from_bytes(stream.read(_LENGTH_BYTES), "little")
            digest.update(b"%d %d " % (size, header_bytes))
            digest.update(stream.read(min(header_bytes, size)))
            for sample in range(_SAMPLES):
                stream.seek(size * sample // _SAMPLES)
                digest.update(stream.read(_SAMPLE_BYTES))
    return digest.hexdigest()[:16]


def _weight_files(directory: Path) -> list[Path]:
    if (directory / _SINGLE).exists():
        return [directory / _SINGLE]
    if not (directory / _INDEX).exists():
        pickled = chain(*(directory.glob(pattern) for pattern in ("*.bin", "*.pt", "*.pth")))
        found = next((path.name for path in pickled), "no weights")
        raise ModelRefused(
            f"{directory} holds {found}, not {_SINGLE}: "
            "convert it with transformers' save_pretrained, or take a safetensors checkpoint"
        )
    weight_map = ConfigJson.read(directory / _INDEX).section("weight_map").fields
    # A shard is a plain name, so that no index reaches outside its directory.
    files = sorted({directory / Path(str(shard)).name for shard in weight_map.values()})
    if not files:
        raise ModelRefused(f"{directory / _INDEX} names no shards: download it again")
    for file in files:
        if not file.exists():
            raise ModelRefused(f"{file} is missing: {_INDEX} needs it, download it again")
    return files


def _read_file(file: Path) -> dict[str, TensorHeader]:
    with file.open("rb") as stream:
        size = file.stat().st_size
        header_bytes = int.from_bytes(stream.read(_LENGTH_BYTES), "little")
        if header_bytes > min(_MAX_HEADER_BYTES, size - _LENGTH_BYTES):
            raise ModelRefused(f"{file} is truncated or not safetensors: download it again")
        raw = stream.read(header_bytes)
    try:
        fields = json.loads(raw)
        fields.pop("__metadata__", None)
        stop = max((int(entry["data_offsets"][1]) for entry in fields.values()), default=0)
        headers = {
            name: TensorHeader(
                file=file,
                dtype=str(entry["dtype"]),
                shape=tuple(entry["shape"]),
                size_bytes=entry["data_offsets"][1] - entry["data_offsets"][0],
            )
            for name, entry in fields.items()
        }
    except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise ModelRefused(f"{file} has no safetensors header: download it again") from error
    promised = _LENGTH_BYTES + header_bytes + stop
    if size != promised:
        raise ModelRefused(
            f"{file} has {size} bytes where its header promises {promised}: download it again"
        )
    return headers


_Expected = tuple[str, tuple[int, ...], tuple[str, ...]]
"""A tensor's name, its shape, and the dtypes that it may have."""


def _expected(
    headers: Mapping[str, TensorHeader], spec: ModelSpec, start: int, stop: int
) -> Iterator[_Expected]:
    if start == 0:
        yield EMBEDDING, (spec.vocab_size, spec.hidden_size), _DTYPES
    for layer in range(start, stop):
        yield from _expected_of_layer(headers, spec, layer)
    if stop == spec.num_layers:
        yield FINAL_NORM, (spec.hidden_size,), _DTYPES
        yield classifier_name(headers, spec), (spec.vocab_size, spec.hidden_size), _DTYPES


def is_packed(headers: Mapping[str, TensorHeader], linear: str) -> bool:
    """Say whether a linear's weight is packed; checkpoints leave some of them as they were."""
    return f"{linear}.qweight" in headers


def _expected_of_layer(
    headers: Mapping[str, TensorHeader], spec: ModelSpec, layer: int
) -> Iterator[_Expected]:
    hidden = spec.hidden_size
    prefix = f"model.layers.{layer}"
    linears = (
        ("self_attn.q_proj", spec.query_size, hidden, spec.qkv_bias),
        ("self_attn.k_proj", spec.kv_size, hidden, spec.qkv_bias),
        ("self_attn.v_proj", spec.kv_size, hidden, spec.qkv_bias),
        ("self_attn.o_proj", hidden, spec.query_size, spec.output_bias),
        *_mlp_linears(spec, layer),
    )
    for linear, num_outputs, num_inputs, bias in linears:
        name = f"{prefix}.{linear}"
        if spec.packing and is_packed(headers, name):
            for part, shape, dtypes in spec.packing.tensors(num_outputs, num_inputs):
                yield f"{name}.{part}", shape, dtypes
        else:
            yield f"{name}.weight", (num_outputs, num_inputs), _DTYPES
        if bias:
            yield f"{name}.bias", (num_outputs,), _DTYPES
    yield f"{prefix}.input_layernorm.weight", (hidden,), _DTYPES
    yield f"{prefix}.post_attention_layernorm.weight", (hidden,), _DTYPES
    if spec.qk_norm:
        yield f"{prefix}.self_attn.q_norm.weight", (spec.head_size,), _DTYPES
        yield f"{prefix}.self_attn.k_norm.weight", (spec.head_size,), _DTYPES


def _mlp_linears(spec: ModelSpec, layer: int) -> Iterator[tuple[str, int, int, bool]]:
    """Name each linear, with its outputs and inputs and whether it has a bias."""
    hidden, moe = spec.hidden_size, spec.moe
    if moe is None or layer not in moe.layers:
        prefixes, projections = ["mlp"], ("gate_proj", "up_proj", "down_proj")
        inner = spec.intermediate_size
    else:
        prefixes = [f"{moe.block}.experts.{expert}" for expert in range(moe.num_experts)]
        projections, inner = moe.projections, moe.intermediate_size
        yield f"{moe.block}.gate", moe.num_experts, hidden, False
    gate, up, down = projections
    for prefix in prefixes:
        yield f"{prefix}.{gate}", inner, hidden, spec.mlp_bias
        yield f"{prefix}.{up}", inner, hidden, spec.mlp_bias
        yield f"{prefix}.{down}", hidden, inner, spec.mlp_bias
