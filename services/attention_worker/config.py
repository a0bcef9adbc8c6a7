"""What an attention worker can be told: how much memory its page pool takes."""

import re
from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field

from common.config import ServiceSettings

_UNITS = {"": 1, "K": 1000, "M": 1000**2, "G": 1000**3, "T": 1000**4}
_UNITS |= {f"{unit}i": 1024**power for power, unit in enumerate("KMGT", start=1)}


def _parse_size(value: object) -> object:
    """Read `4GiB`, `4G` or `500MB` as bytes; leave the rest to pydantic."""
    match = (
        re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?i?)B?", value) if isinstance(value, str) else None
    )
    return int(float(match[1]) * _UNITS[match[2]]) if match and match[2] in _UNITS else value


Size = Annotated[int, Field(gt=0), BeforeValidator(_parse_size)]
"""Bytes, as a number or with a unit: `4GiB`, `500MB`."""


class AttentionWorkerSettings(ServiceSettings):
    """An attention worker's settings; the shape of the cache comes from the router."""

    section: ClassVar[str] = "attention_worker"

    kv_memory: Size | Literal["auto"] = "auto"
    """Memory of the page pool, such as `4GiB`; `auto` takes a share of what is free."""
    kv_memory_share: float = Field(default=0.5, gt=0, le=1)
    """The share of free memory that `auto` takes. Workers that start on one host at the same time
    see the same free memory, so there give each its `kv_memory`."""
