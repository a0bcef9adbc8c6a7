"""`--devices`: one layer worker per device, with as many layers as its speed and memory allow."""

import json
import subprocess
import sys
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any, Final

from common.checkpoint_header import EMBEDDING, TensorHeader, classifier_name, read_headers
from common.errors import SettingsError
from common.messages.member import Quantization
from common.messages.tensor import DTYPE_BYTES
from common.model_spec import ModelSpec
from common.packing_spec import NUMBERS_PER_WORD
from common.policy.ranges import Node, Weights, share_layers
from services.attention_worker.memory import free_memory_bytes
from services.router.config import RouterSettings, choose_dtype

_ALL: Final = "all"
_PROBE_TIMEOUT_S: Final = 120.0
_WEIGHTS_SHARE: Final = 0.85
"""Of a device's memory; the rest is for rows, and for what libraries take."""


def split(
    wanted: str, settings: RouterSettings, directory: Path, spec: ModelSpec, kv_bytes: int
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Find the devices, and share the layers out among them.

    Args:
        wanted: `all`, or devices with commas between.
        settings: Say how the layers compute.
        directory: Of the checkpoint.
        spec: The model's.
        kv_bytes: Of each device, for keys and values.

    Returns:
        The devices, and the layers of each.

    Raises:
        SettingsError: There is no such device, or the model does not fit.
    """
    found = _probe([] if wanted == _ALL else [each.strip() for each in wanted.split(",")])
    if not found:
        message = "--devices all: there are no GPUs here; leave it out, or name devices"
        raise SettingsError(message)
    num_cpus = sum(each["memory_bytes"] is None for each in found)
    cpu_bytes = free_memory_bytes() // max(1, num_cpus)
    nodes = [
        Node(
            memory_bytes=int((each["memory_bytes"] or cpu_bytes) * _WEIGHTS_SHARE) - kv_bytes,
            bytes_per_s=each["bytes_per_s"],
        )
        for each in found
    ]
    counts = share_layers(spec.num_layers, weigh(settings, directory, spec), nodes)
    return tuple(each["device"] for each in found), counts


def weigh(settings: RouterSettings, directory: Path, spec: ModelSpec) -> Weights:
    """Give what the weights take once they are loaded.

    Raises:
        ModelRefused: The checkpoint cannot be read.
    """
    headers = read_headers(directory)
    number_bytes = DTYPE_BYTES[choose_dtype(settings.dtype, spec.dtype)]
    in_layers = [
        _loaded_bytes(header, settings.quantization, number_bytes)
        for name, header in headers.items()
        if name.startswith("model.layers.")
    ]
    ends = [
        prod(headers[name].shape) * number_bytes
        for name in (EMBEDDING, classifier_name(headers, spec))
    ]
    return Weights(
        layer_bytes=-(-sum(in_layers) // spec.num_layers), first_bytes=ends[0], last_bytes=ends[1]
    )


def _loaded_bytes(header: TensorHeader, quantization: Quantization, number_bytes: int) -> int:
    is_packed = header.dtype == "I32"
    if len(header.shape) < 2 or (is_packed and quantization == "w4a16"):
        return header.size_bytes
    num_numbers = prod(header.shape) * (NUMBERS_PER_WORD if is_packed else 1)
    return num_numbers * (1 if quantization in ("w8a8", "w8a16") else number_bytes)


def _probe(devices: Sequence[str]) -> list[dict[str, Any]]:
    """Measure devices in a process of its own.

    Raises:
        SettingsError: One of them is not there.
    """
    command = [sys.executable, "-m", "services.layer_worker.probe", *devices]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=_PROBE_TIMEOUT_S, check=False
    )
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise SettingsError(f"--devices {','.join(devices) or _ALL}: {reason}")
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found
