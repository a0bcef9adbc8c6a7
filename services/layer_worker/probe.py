"""`python -m services.layer_worker.probe`: the devices here, their memory and their speed, as JSON.

A process of its own, so that whoever asks needs no torch, and no GPU stays occupied.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from time import perf_counter
from typing import Final

import torch

_BYTES: Final = 1 << 28
"""That are read in each run: more than caches hold."""
_RUNS: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Probed:
    """A device as it was found."""

    device: str
    memory_bytes: int | None
    """Free; None where the system has the say."""
    bytes_per_s: float
    """At which it reads and writes its memory."""


def probe(names: Sequence[str]) -> list[Probed]:
    """Measure devices, one after the other.

    Args:
        names: In torch's words; none means all GPUs.
    """
    devices = names or [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    return [_measure(torch.device(name)) for name in devices]


def _measure(device: torch.device) -> Probed:
    memory_bytes = None
    if device.type == "cuda":
        memory_bytes, _ = torch.cuda.mem_get_info(device)
    source = torch.ones(_BYTES, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    seconds = min(_copy_s(source, target) for _ in range(_RUNS))
    return Probed(
        device=str(device), memory_bytes=memory_bytes, bytes_per_s=2 * source.nbytes / seconds
    )


def _copy_s(source: torch.Tensor, target: torch.Tensor) -> float:
    started_s = perf_counter()
    target.copy_(source)
    target[-1].item()  # waits for the copy
    return perf_counter() - started_s


if __name__ == "__main__":
    json.dump([asdict(each) for each in probe(sys.argv[1:])], sys.stdout)
