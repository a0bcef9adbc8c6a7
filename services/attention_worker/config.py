"""What an attention worker can be told: its pool's memory, and how it computes."""

import re
from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field

from common.config import ComputeSettings

_UNITS = {"": 1, "K": 1000, "M": 1000**2, "G": 1000**3, "T": 1000**4}
_UNITS |= {f"{unit}i": 1024**power for power, unit in enumerate("KMGT", start=1)}


def _parse_size(value: object) -> object:
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?([KMGT]?i?)B?", str(value))
    size = int(float(match[1]) * _UNITS[match[2]]) if match and match[2] in _UNITS else 0
    if size < 1 and value != "auto":
        message = "give bytes such as 4GiB or 500MB, or auto"
        raise ValueError(message)
    return size or value


Size = Annotated[int | Literal["auto"], BeforeValidator(_parse_size)]
"""Bytes, as a number or with a unit, or `auto`."""


InstructionSet = Literal["portable", "avx2", "avx512", "avx512_bf16"]
"""What the native kernel is compiled for, slowest first."""


class AttentionWorkerSettings(ComputeSettings):
    """An attention worker's settings; the shape of the cache comes from the router."""

    section: ClassVar[str] = "attention_worker"

    kv_memory: Size = "auto"
    """Memory of the page pool, such as `4GiB`; `auto` takes a share of what is free."""
    kv_memory_share: float = Field(default=0.5, gt=0, le=1)
    """The share of free memory that `auto` takes. Workers that start on one host at the same time
    see the same free memory, so there give each its `kv_memory`."""
    device: Annotated[str, Field(pattern=r"^(cpu|cuda(:\d+)?)$")] = "cpu"
    """Where pages are, and attention is computed: `cpu`, `cuda`, `cuda:1`. On a GPU give `kv_memory`
    what the weights leave."""
    kernel: Literal["auto", InstructionSet, "torch", "gather", "triton"] = "auto"
    """Instructions that attention uses; `auto` takes the fastest that this machine can run, and
    torch where the native kernel was not built. On GPUs that is `triton`, and without a C compiler
    `gather`, which copies pages together for torch's fused attention."""
    pin_threads: bool = False
    """Keep the engine on this process's CPUs but the last, which is left to messages. For one
    attention worker per NUMA node, started under `numactl` or in a cgroup with that node's CPUs."""
