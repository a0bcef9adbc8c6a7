"""What a node takes for each stage of a step: the file that planning and emulation go by."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from common.errors import SettingsError

_Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_Count = Annotated[int, Field(ge=1)]
_Column = tuple[_Seconds, ...]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelShape(_Part):
    """What decides how long a layer takes; as many layers as one likes."""

    hidden_size: _Count
    intermediate_size: _Count
    num_heads: _Count
    num_kv_heads: _Count
    head_size: _Count
    vocab_size: _Count


class LayerTimes(_Part):
    """Seconds of the stages of one layer of tier 1, by the rows that take part."""

    rows: Annotated[tuple[_Count, ...], Field(min_length=2)]
    """Where the columns below are known, ascending."""
    pre_s: _Column
    """Norm, queries, keys and values, rotary."""
    post_s: _Column
    """Output projection and feed-forward network."""
    classify_s: _Column
    """Final norm, classifier and sampling."""

    @model_validator(mode="after")
    def _check_columns(self) -> Self:
        if any(earlier >= later for earlier, later in pairwise(self.rows)):
            raise ValueError("rows must ascend")
        if any(len(each) != len(self.rows) for each in (self.pre_s, self.post_s, self.classify_s)):
            raise ValueError(f"every column must have {len(self.rows)} values, as rows has")
        return self

    def pre(self, num_rows: int) -> float:
        """Give the seconds before attention."""
        return _seconds_at(self.rows, self.pre_s, num_rows)

    def post(self, num_rows: int) -> float:
        """Give the seconds after attention."""
        return _seconds_at(self.rows, self.post_s, num_rows)

    def classify(self, num_rows: int) -> float:
        """Give the seconds from the last layer's output to tokens."""
        return _seconds_at(self.rows, self.classify_s, num_rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionWork:
    """One layer's attention of a shard: what must be read, and what must be computed."""

    read: NDArray[np.float64]
    """`[R]`, positions whose keys and values are needed."""
    kv_bytes_per_token: int
    flops: NDArray[np.float64]
    """`[R]`"""
    further_rows: NDArray[np.float64]
    """`[R]`, beyond each entry's first."""

    @classmethod
    def of(
        cls,
        starts: NDArray[np.int32],
        num_rows: NDArray[np.int32],
        window: int | None,
        *,
        query_size: int,
        kv_bytes_per_token: int,
    ) -> Self:
        """Count the work of entries.

        Args:
            starts: `[R]`, position of each entry's first row.
            num_rows: `[R]`, rows of each entry.
            window: How many positions a row sees; None is all.
            query_size: Numbers in a row of queries.
            kv_bytes_per_token: Of one layer.
        """
        first, count = starts.astype(np.float64), num_rows.astype(np.float64)
        read = first + count
        seen = count * first + count * (count + 1) / 2
        if window is not None:
            read, seen = np.minimum(read, window + count - 1), np.minimum(seen, window * count)
        # Each position seen is one product with the query and one with the value.
        return cls(
            read=read,
            kv_bytes_per_token=kv_bytes_per_token,
            flops=seen * 4 * query_size,
            further_rows=count - 1,
        )


class AttentionTimes(_Part):
    """The rates that bound attention in tier 2."""

    kv_bytes_per_s: _Rate
    """At which keys and values are read; bounds generated positions."""
    flops_per_s: _Rate
    """Bounds prompt positions."""
    overhead_s: _Seconds
    """Of each shard and layer."""
    entry_s: _Seconds = 0.0
    """Of each entry, whatever its length."""
    row_s: _Seconds = 0.0
    """Of each row of an entry beyond its first."""
    block_tokens: _Count = 1
    """Positions are read in blocks of so many, the last one whole, too."""

    def attend(self, work: AttentionWork) -> float:
        """Give the seconds of a shard's attention: each entry is bound by reading or by computing."""
        blocks = np.ceil(work.read / self.block_tokens)
        kv_bytes = blocks * (self.block_tokens * work.kv_bytes_per_token)
        bound = np.maximum(kv_bytes / self.kv_bytes_per_s, work.flops / self.flops_per_s)
        fixed_s = self.overhead_s + self.entry_s * len(bound)
        return fixed_s + float((bound + self.row_s * work.further_rows).sum())


class AttentionPoint(_Part):
    """One measurement of attention: so many entries, each with as many rows and tokens."""

    entries: _Count
    rows: _Count
    """Of each entry: 1 in decode, a chunk in prefill."""
    context: _Count
    """Tokens that each entry's last row sees."""
    p50_s: _Seconds
    p90_s: _Seconds


class MessageTimes(_Part):
    """What it costs a process to send or to receive."""

    message_s: _Seconds
    """Of each message, on either side."""
    bytes_per_s: _Rate
    """At which its tensors are copied, on either side."""


class RouterTimes(_Part):
    """What it costs the router that a microbatch comes home and a next one leaves."""

    microbatch_s: _Seconds
    entry_s: _Seconds
    """Of each of its entries."""
    job_s: _Seconds = 0.0
    """From a job's submission until its first lines are ready, beside all that."""


class Profile(_Part):
    """A node's stage times. A node of one tier only has that tier's part."""

    version: Literal[1]
    node: str
    """What kind of machine it is about."""
    source: Literal["roofline", "measured"]
    assumptions: dict[str, float | str]
    """Where the figures come from: all that the formulas were given, or the command that measured."""
    dtype: Literal["bf16", "fp16", "fp32", "int8"]
    """Of the weights in tier 1, of keys and values in tier 2."""
    model: ModelShape | None = None
    """Whose layers were timed."""
    layer: LayerTimes | None = None
    layer_p90: LayerTimes | None = None
    """As slow as one in ten runs was; `layer` is the median."""
    attention: AttentionTimes | None = None
    attention_points: tuple[AttentionPoint, ...] = ()
    """The measurements that `attention` was fitted to."""
    messages: MessageTimes | None = None
    router: RouterTimes | None = None
    latency_s: _Seconds | None = None
    """That a message is under way between two processes of one machine, beside what it costs them."""
    memory_bytes: _Rate | None = None
    """That weights, or keys and values, may take."""

    @model_validator(mode="after")
    def _check_model(self) -> Self:
        if self.layer is not None and self.model is None:
            raise ValueError("times of a layer need the shape of its model")
        return self


def read_profile(path: Path) -> Profile:
    """Read a profile.

    Raises:
        SettingsError: There is none, or it is not of this format; names what is wrong.
    """
    try:
        return Profile.model_validate_json(path.read_bytes())
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}") from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the whole"
        reason = first["msg"].removeprefix("Value error, ")
        raise SettingsError(f"{path} is not a profile: {place}: {reason}") from None


def write_profile(profile: Profile, path: Path) -> None:
    """Write a profile.

    Raises:
        SettingsError: It cannot be written.
    """
    try:
        path.write_text(text_of(profile), encoding="utf-8")
    except OSError as error:
        raise SettingsError(f"{path} cannot be written: {error.strerror}") from None


def text_of(profile: Profile) -> str:
    """Give a profile as its file has it."""
    return profile.model_dump_json(indent=2, exclude_none=True) + "\n"


def _seconds_at(rows: Sequence[int], seconds: Sequence[float], num_rows: int) -> float:
    """Interpolate linearly; beyond the last point its slope goes on, before the first time stands."""
    if num_rows <= rows[0]:
        return seconds[0] if num_rows else 0.0
    right = min(bisect_left(rows, num_rows), len(rows) - 1)
    left = right - 1
    slope = (seconds[right] - seconds[left]) / (rows[right] - rows[left])
    return max(0.0, seconds[left] + slope * (num_rows - rows[left]))
