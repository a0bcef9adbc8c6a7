"""What the state lets the engine do, and what comes back: the border between deciding and torch."""

from dataclasses import dataclass

from common.messages import AttentionRequest, AttentionRole, Tensor, WriteRequest


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Write:
    """Write a shard's keys and values of one layer; nothing attends."""

    request: WriteRequest


Work = AllocatePool | Attend | Write


@dataclass(frozen=True, slots=True, kw_only=True)
class Attended:
    """What a shard's rows attended to."""

    request: AttentionRequest
    output: Tensor
    """[T, H D]"""
    log_sums: Tensor | None
    """See `AttentionResult`."""
    engine_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteDone:
    """A shard's keys and values are in their pages."""

    request: WriteRequest
