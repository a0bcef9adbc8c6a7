"""How fast weights are loaded from disk, against plain reading of the same files.

    python -m benchmarks.loading --model ~/.cache/glinthawk/llama-300m

Before each of the two, the files' pages are dropped from the system's cache as far as it obeys.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Annotated

import torch
import typer

from common.log import set_up_logs
from common.model_spec import read_model_spec
from services.layer_worker.checkpoint import Checkpoint
from services.layer_worker.weights import WeightForm, load_range

_CHUNK_BYTES = 1 << 24


def main(model: Annotated[Path, typer.Option(help="A checkpoint.")], runs: int = 3) -> None:
    """Read and load in turns."""
    set_up_logs("warning", "console")  # stdout is for figures
    files = sorted(model.expanduser().glob("*.safetensors"))
    size_bytes = sum(file.stat().st_size for file in files)
    rates: dict[str, list[float]] = {"read": [], "loaded": []}
    for _ in range(runs):
        for name, work in (("read", lambda: _read(files)), ("loaded", lambda: _load(model))):
            rates[name].append(size_bytes / _timed(files, work))
    ratios = [b / a for a, b in zip(rates["read"], rates["loaded"], strict=True)]
    print(json.dumps({"bytes": size_bytes, "bytes_per_s": rates, "ratio": median(ratios)}))


def _timed(files: list[Path], work: Callable[[], object]) -> float:
    for file in files:
        with file.open("rb") as stream:
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    started_s = perf_counter()
    work()
    return perf_counter() - started_s


def _read(files: list[Path]) -> None:
    buffer = bytearray(_CHUNK_BYTES)
    for file in files:
        with file.open("rb", buffering=0) as stream:
            while stream.readinto(buffer):
                pass


def _load(model: Path) -> None:
    directory = model.expanduser()
    spec = read_model_spec(directory)
    form = WeightForm(dtype=torch.bfloat16, device=torch.device("cpu"))
    load_range(Checkpoint(directory), spec, range(spec.num_layers), form)


if __name__ == "__main__":
    typer.run(main)
