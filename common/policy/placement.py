"""Where a new request is to live: where it adds least to what a pass takes, its prefix counted in."""

from collections.abc import Iterable
from typing import Protocol, TypeVar

from common.ids import WorkerId

FOUND_WORTH = 4
"""Tokens of uneven load that one token is worth which need not be computed again. A found token
saves its computation once; an uneven token costs at every pass of those who live there."""


class Offer(Protocol):
    """What placement has to know of an attention worker that has room for the request."""

    @property
    def worker_id(self) -> WorkerId:
        """Whose offer it is; settles ties."""
        ...

    @property
    def load_tokens(self) -> int:
        """Tokens that the requests placed there will probably hold in the end."""
        ...

    @property
    def found_tokens(self) -> int:
        """Of the request's tokens, those whose keys and values are there already, or soon."""
        ...

    @property
    def tokens_per_s(self) -> float:
        """Tokens that it attends to in a second, or any number that is the same for all."""
        ...


AnyOffer = TypeVar("AnyOffer", bound=Offer)


def place(offers: Iterable[AnyOffer], expected_tokens: int) -> AnyOffer | None:
    """Choose the worker that takes the least time for all its tokens, this request's included.

    Tokens are counted and not requests, since the time of attention grows with tokens. Requests
    with a common prefix gather where it is until the others have too little to do.

    Args:
        offers: Of every worker with room.
        expected_tokens: What the request will probably hold in the end.

    Returns:
        The offer, or None if there is none.
    """
    return min(
        offers,
        key=lambda offer: (
            (offer.load_tokens + expected_tokens - FOUND_WORTH * offer.found_tokens)
            / offer.tokens_per_s,
            offer.worker_id,
        ),
        default=None,
    )
