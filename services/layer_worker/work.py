"""What the state lets the engine do, and what comes back: the border between deciding and torch."""

from dataclasses import dataclass
from typing import Any

from common.ids import MicrobatchId
from common.messages import LayerRole, Sampling, Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadRange:
    """Load the weights of this layer range instead of those loaded so far."""

    role: LayerRole


@dataclass(frozen=True, slots=True, kw_only=True)
class RangeLoaded:
    """The weights are there."""

    role: LayerRole


@dataclass(frozen=True, slots=True, kw_only=True)
class Begin:
    """Enter the range: up to the queries, keys and values of its first layer."""

    microbatch_id: MicrobatchId
    layer: int
    """The first of the range."""
    entries: Tensor
    arrived: Tensor
    """Token ids in the first range, hidden rows in the others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attended:
    """What came back from a shard. L of its T rows are of local entries."""

    output: Tensor
    """[T, H D]"""
    log_sums: Tensor | None
    """fp32 [L, H], see `AttentionResult`"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Advance:
    """Finish a layer, and go on to the queries, keys and values of the next."""

    microbatch_id: MicrobatchId
    layer: int
    """The layer whose attention is done."""
    carry: Any
    attention: tuple[Attended, ...]
    """Of the shards with rows that attend, in the order of the rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """Finish the last layer of the range; in the last range, choose the tokens."""

    microbatch_id: MicrobatchId
    layer: int
    carry: Any
    attention: tuple[Attended, ...]
    entries: Tensor
    sampling: Sampling | None
    """None in all ranges but the last."""


Work = LoadRange | Begin | Advance | End


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerBegun:
    """A layer's queries, keys and values are ready to be scattered."""

    microbatch_id: MicrobatchId
    carry: Any
    """What the engine needs to go on: the residual rows and their positions, opaque to the state.

    The visit holds it, so it ends with the visit, however that ends."""
    qkv: Tensor
    written_kv: Tensor | None
    """[W, 2 G D]: keys and values of the rows that are only written; None if there are none."""
    engine_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RangeEnded:
    """The microbatch leaves for the next range."""

    microbatch_id: MicrobatchId
    hidden: Tensor
    engine_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TokensChosen:
    """The microbatch goes home. Fields as in `SampledTokens`."""

    microbatch_id: MicrobatchId
    tokens: Tensor
    finite: Tensor
    logprobs: Tensor
    top_tokens: Tensor
    top_logprobs: Tensor
    engine_s: float
