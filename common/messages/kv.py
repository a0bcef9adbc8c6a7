"""The conversation about pages, between router and KV manager.

Requests are numbered per term and repeated until answered; a repeat gets the same answer.
"""

from common.ids import Epoch, PageId, RequestId, WorkerId
from common.messages.base import Message, message


@message("kv.reserve")
class ReservePages(Message):
    """Router → KV manager: let this request hold `num_tokens` in total."""

    number: int
    """Rises by one per `ReservePages` or `ReleasePages` of a term."""
    request_id: RequestId
    num_tokens: int
    """Tokens to hold, those already held included."""
    expected_tokens: int
    """Tokens that the request will probably hold in the end; places it by balance."""


@message("kv.reserved")
class PagesReserved(Message):
    """KV manager → router: the request holds these pages too."""

    number: int
    request_id: RequestId
    worker_id: WorkerId
    """The attention worker that the request lives on, the same at every grant."""
    epoch: Epoch
    """The worker's epoch: pages of another epoch are gone."""
    new_pages: tuple[PageId, ...]
    """Pages to append to the request's table, in token order."""


@message("kv.refused")
class ReserveRefused(Message):
    """KV manager → router: not now, or never. Nothing changed."""

    number: int
    request_id: RequestId
    needed: int
    """Pages that the request lacks."""
    free: int
    """Pages free where it lives, or on the roomiest worker if it lives nowhere yet."""
    fits_never: bool
    """Even an empty worker could not hold it."""
    victims: tuple[RequestId, ...]
    """Requests whose release would make room, best first; the router decides."""


@message("kv.release")
class ReleasePages(Message):
    """Router → KV manager: this request is in no live microbatch and holds nothing any more."""

    number: int
    request_id: RequestId


@message("kv.released")
class PagesReleased(Message):
    """KV manager → router: they are free again."""

    number: int
    request_id: RequestId
