"""Tiny checkpoints in 4 bits, packed as AWQ and GPTQ do, beside what they stand for in float32."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from tests.support.checkpoints import make_checkpoint

Method = Literal["awq", "gptq", "gptq_v2", "gptq_act_order"]
METHODS: tuple[Method, ...] = ("awq", "gptq", "gptq_v2", "gptq_act_order")

GROUP_SIZE = 32
SIZES: Mapping[str, Any] = {"hidden_size": 64, "intermediate_size": 96}
"""Whole groups, and outputs in sixteens."""

_AWQ_COLUMNS = (0, 2, 4, 6, 1, 3, 5, 7)
"""The column that each 4 bits of a word hold, lowest first."""
_FILE = "model.safetensors"

Numbers = NDArray[np.int64]


def make_packed(directory: Path, family: str, method: Method) -> tuple[Path, Path]:
    """Save a checkpoint twice: packed, and as the float32 numbers that it stands for."""
    plain, packed = directory / "plain", directory / method
    make_checkpoint(plain, family, **SIZES)
    packed.mkdir()
    tensors = load_file(plain / _FILE)
    stored: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        if not name.endswith("_proj.weight") and ".experts." not in name:
            stored[name] = tensor
            continue
        linear = name.removesuffix(".weight")
        groups = _groups(tensor.shape[1], method)
        parts, restored = _pack(tensor.double().numpy(), groups, method)
        stored |= {f"{linear}.{part}": torch.from_numpy(value) for part, value in parts.items()}
        tensors[name] = torch.from_numpy(restored)
    save_file(tensors, plain / _FILE)
    save_file({name: tensor.contiguous() for name, tensor in stored.items()}, packed / _FILE)
    config = json.loads((plain / "config.json").read_text())
    (packed / "config.json").write_text(json.dumps(config | {"quantization_config": _says(method)}))
    return packed, plain


def _says(method: Method) -> dict[str, Any]:
    common = {"bits": 4, "group_size": GROUP_SIZE}
    if method == "awq":
        return {**common, "quant_method": "awq", "version": "gemm", "zero_point": True}
    kind = "gptq_v2" if method == "gptq_v2" else "gptq"
    return {**common, "quant_method": "gptq", "checkpoint_format": kind, "desc_act": True}


def _groups(num_inputs: int, method: Method) -> Numbers:
    """Give the group of each input; what shares its input shares its groups."""
    groups = np.arange(num_inputs) // GROUP_SIZE
    if method != "gptq_act_order":
        return groups
    return np.random.default_rng(num_inputs).permutation(groups)


def _pack(
    weight: NDArray[np.float64], groups: Numbers, method: Method
) -> tuple[dict[str, NDArray[Any]], NDArray[np.float32]]:
    """Round a weight [N, K] to 4 bits; give what is stored, and what it stands for."""
    num_groups = groups.max() + 1
    low = np.stack([weight[:, groups == group].min(1) for group in range(num_groups)])  # [G, N]
    high = np.stack([weight[:, groups == group].max(1) for group in range(num_groups)])
    scales = ((high - low) / 15).astype(np.float16)
    zeros = np.clip(np.rint(-low / scales.astype(np.float64)), 1, 15).astype(np.int64)
    numbers = np.rint(weight / scales.T[:, groups].astype(np.float64)) + zeros.T[:, groups]
    numbers = np.clip(numbers, 0, 15).astype(np.int64)  # [N, K]
    restored = (numbers - zeros.T[:, groups]).astype(np.float32)
    restored *= scales.T[:, groups].astype(np.float32)
    if method == "awq":
        qweight, qzeros = _words(numbers.T, _AWQ_COLUMNS), _words(zeros, _AWQ_COLUMNS)
        return {"qweight": qweight, "qzeros": qzeros, "scales": scales}, restored
    in_order = tuple(range(8))
    qzeros = _words(zeros - (method != "gptq_v2"), in_order)
    parts = {"qweight": _words(numbers, in_order).T, "qzeros": qzeros, "scales": scales}
    return {**parts, "g_idx": groups.astype(np.int32)}, restored


def _words(numbers: Numbers, columns: tuple[int, ...]) -> NDArray[np.int32]:
    """Put eight neighbouring columns into a word: [R, 8 C] -> [R, C]."""
    words = np.zeros((len(numbers), numbers.shape[1] // 8), np.uint32)
    for place, column in enumerate(columns):
        words |= numbers[:, column::8].astype(np.uint32) << np.uint32(4 * place)
    return words.view(np.int32)
