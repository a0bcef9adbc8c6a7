"""Where a new request is to live: the attention worker that it loads least, by tokens."""

from collections.abc import Iterable
from typing import Protocol, TypeVar

from common.ids import WorkerId


class Room(Protocol):
    """What placement has to know of an attention worker's page pool."""

    @property
    def worker_id(self) -> WorkerId:
        """Whose pool it is; settles ties."""
        ...

    @property
    def capacity_tokens(self) -> int:
        """Tokens that the pool holds when it is full."""
        ...

    @property
    def free_tokens(self) -> int:
        """Tokens that fit into its free pages."""
        ...

    @property
    def expected_tokens(self) -> int:
        """Tokens that the requests placed there will probably hold in the end."""
        ...


R = TypeVar("R", bound=Room)


def place(rooms: Iterable[R], num_tokens: int, expected_tokens: int) -> R | None:
    """Choose the pool whose expected load, this request included, is the smallest part of it.

    Tokens are counted and not requests, since the time of attention grows with tokens.

    Args:
        rooms: Every pool that may be chosen.
        num_tokens: What the request needs at once; a pool with less room is left out.
        expected_tokens: What it will probably hold in the end.

    Returns:
        The pool, or None if none has room.
    """
    roomy = (room for room in rooms if room.free_tokens >= max(1, num_tokens))
    return min(
        roomy,
        key=lambda room: (
            (room.expected_tokens + expected_tokens) / room.capacity_tokens,
            room.worker_id,
        ),
        default=None,
    )
