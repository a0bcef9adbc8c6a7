"""What the state lets the engine do, and what comes back: the border between deciding and torch."""

from dataclasses import dataclass

from common.messages import AttentionRequest, AttentionRole, Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class AllocatePool:
    """Make a page pool for this role, in place of the one that there is."""

    role: AttentionRole


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolAllocated:
    """The pages are there, and all of them empty."""

    role: AttentionRole
    num_pages: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Attend:
    """Write a shard's keys and values of one layer, then let its rows attend."""

    request: AttentionRequest


Work = AllocatePool | Attend


@dataclass(frozen=True, slots=True, kw_only=True)
class Attended:
    """What a shard's rows attended to."""

    request: AttentionRequest
    output: Tensor
    """[T, H D]"""
    engine_s: float
