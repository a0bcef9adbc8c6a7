"""The conversation about pages, between router and KV manager.

Requests are numbered per term and repeated until answered; a repeat gets the same answer.
"""

from common.ids import Epoch, PageId, RequestId, WorkerId
from common.messages.base import Message, Record, message, record

HASH_BYTES = 16
"""Of the content hash of a full page, which covers all pages before it too."""

MAX_PAGE_HASHES = 4096
"""Hashes in one message; pages of a prompt beyond them are not shared."""


@message("kv.reserve")
class ReservePages(Message):
    """Router → KV manager: let this request hold `num_tokens` in total."""

    number: int
    """Rises by one per message of this conversation and term."""
    request_id: RequestId
    moves_in: bool
    """It holds no page: if it has any by what was said before, it gives those back first."""
    num_tokens: int
    """Tokens to hold, those already held included."""
    expected_tokens: int
    """Tokens that the request will probably hold in the end; places it by balance."""
    max_tokens: int
    """The most that it can come to hold: it lives only where these fit."""
    page_hashes: bytes
    """Of the pages from the first on that it may find filled, `HASH_BYTES` each; empty once it
    holds pages."""


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
    num_found: int
    """The first so many of them are sealed and hold what their hashes say."""


@message("kv.refused")
class ReserveRefused(Message):
    """KV manager → router: not now, or never. Nothing changed."""

    number: int
    request_id: RequestId
    needed: int
    """Pages that the request lacks."""
    available: int
    """Pages that nobody holds where it lives, or on the roomiest worker if it lives nowhere yet."""
    fits_never: bool
    """Even an empty worker could not hold it."""
    victims: tuple[RequestId, ...]
    """Requests whose release would make room, best first; the router decides."""


@message("kv.awaited")
class PrefixAwaited(Message):
    """KV manager → router: another request fills pages that this one shares; ask again then."""

    number: int
    request_id: RequestId
    leader: RequestId
    """Fills them."""
    num_pages: int
    """So many of its pages must be sealed."""


@record
class FilledPages(Record):
    """Pages of one request that are full and will not be written again."""

    request_id: RequestId
    first_page: int
    """The first one's place in the request's table."""
    page_hashes: bytes
    """One per page, in token order."""


@message("kv.filled")
class PagesFilled(Message):
    """Router → KV manager: seal these pages. Needs no answer: with it only hits are lost."""

    number: int
    filled: tuple[FilledPages, ...]


@message("kv.release")
class ReleasePages(Message):
    """Router → KV manager: this request is in no live microbatch and holds nothing any more."""

    number: int
    request_id: RequestId


@message("kv.released")
class PagesReleased(Message):
    """KV manager → router: nobody holds them for it any more."""

    number: int
    request_id: RequestId


@message("kv.tables_wanted")
class TablesWanted(Message):
    """KV manager → router: I know of nobody who holds pages. Repeated until all tables are there."""

    worker_id: WorkerId
    epoch: Epoch


@record
class PageTable(Record):
    """What a request holds, and what is in it."""

    request_id: RequestId
    worker_id: WorkerId
    """The attention worker that it lives on."""
    epoch: Epoch
    pages: tuple[PageId, ...]
    """In token order."""
    num_sealed: int
    """The first so many of them are full and will not be written again."""
    page_hashes: bytes
    """Of the pages from the first on, `HASH_BYTES` each: those that are sealed, then those that the
    request is known to fill."""
    num_tokens: int
    """Tokens that it holds pages for."""
    expected_tokens: int
    """Tokens that it will probably hold in the end."""


@message("kv.tables")
class Tables(Message):
    """Router → KV manager: a part of who holds what. Whatever else is there is free."""

    number: int
    """Of this answer, the same in all parts of it."""
    part: int
    """From 0."""
    num_parts: int
    tables: tuple[PageTable, ...]


@record
class WorkerSpeed(Record):
    """How fast an attention worker attends, as measured."""

    worker_id: WorkerId
    epoch: Epoch
    tokens_per_s: float


@message("kv.speeds")
class SpeedsMeasured(Message):
    """Router → KV manager: place by these from now on; workers not named keep theirs."""

    speeds: tuple[WorkerSpeed, ...]


@record
class PoolCount(Record):
    """The pages of one pool, by who holds them; the four add up to the pool."""

    worker_id: WorkerId
    epoch: Epoch
    free: int
    held: int
    """By one request."""
    shared: int
    """By several."""
    cached: int
    """Sealed, held by nobody, and free to be taken."""


@message("kv.counted")
class PoolsCounted(Message):
    """KV manager → router, at each of its heartbeats: how full the pools are."""

    pools: tuple[PoolCount, ...]
