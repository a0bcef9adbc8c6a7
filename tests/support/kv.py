"""What tests say to a KV manager, and a KV manager to say it to."""

from collections.abc import Iterable
from hashlib import md5
from typing import Any

from common.ids import Endpoint, Epoch, PageId, RequestId, Term, WorkerId
from common.messages import (
    FilledPages,
    Hop,
    Message,
    PagesFilled,
    PagesReserved,
    PageTable,
    Register,
    ReleasePages,
    ReservePages,
    ReserveRefused,
    Tables,
    WorkerJoined,
    WorkerLost,
)
from common.runtime.counters import Measured
from common.runtime.effects import Send, TermRaised
from common.runtime.member import Patience
from services.kv_manager.state import KvManagerState

ROUTER = Hop(worker_id=WorkerId("router"), endpoint=Endpoint("ipc://router"), epoch=Epoch(0))
CPU_0, CPU_1 = WorkerId("cpu-0"), WorkerId("cpu-1")
NEXT_TERM = TermRaised(Term(2))


def make_state(epoch: int = 9) -> KvManagerState:
    """Make a KV manager that knows no pool yet."""
    register = Register(
        worker_id=WorkerId("kv"),
        epoch=Epoch(epoch),
        role="kv_manager",
        endpoint=Endpoint("ipc://kv"),
        host="here",
        ordinal=None,
        model=None,
        kernel_path="none",
        term=Term(0),
    )
    patience = Patience(register_interval_s=1, router_silence_s=3, stop_timeout_s=10)
    return KvManagerState(register, ROUTER, patience, lambda: Measured(progress=0, busy_s=0))


def tables(*each: PageTable, number: int = 1, part: int = 0, num_parts: int = 1) -> Tables:
    """Say who holds what: nobody anything, or these."""
    return Tables(number=number, part=part, num_parts=num_parts, tables=each)


def table(
    request_id: RequestId,
    pages: Iterable[int],
    page_hashes: bytes = b"",
    num_sealed: int = 0,
    **changes: Any,
) -> PageTable:
    """What a request holds in a pool whose pages have 16 tokens, all of them used."""
    held = tuple(map(PageId, pages))
    fields: dict[str, Any] = {
        "request_id": request_id,
        "worker_id": CPU_0,
        "epoch": Epoch(1),
        "pages": held,
        "num_sealed": num_sealed,
        "page_hashes": page_hashes,
        "num_tokens": 16 * len(held),
        "expected_tokens": 16 * len(held),
    }
    return PageTable(**{**fields, **changes})


def sent(effects: list[Any]) -> list[Message]:
    """Pick what is said to the router from a state's effects."""
    return [effect.message for effect in effects if isinstance(effect, Send)]


def joined(
    worker_id: WorkerId = CPU_0, epoch: int = 1, num_pages: int = 4, page_size: int = 16
) -> WorkerJoined:
    """Say that an attention worker offers pages."""
    return WorkerJoined(
        worker_id=worker_id, epoch=Epoch(epoch), num_pages=num_pages, page_size=page_size
    )


def lost(worker_id: WorkerId = CPU_0, epoch: int = 1) -> WorkerLost:
    """Say that a worker's life is over."""
    return WorkerLost(worker_id=worker_id, epoch=Epoch(epoch))


def reserve(
    number: int,
    request_id: RequestId,
    num_tokens: int,
    expected_tokens: int | None = None,
    **changes: Any,
) -> ReservePages:
    """Ask for pages; a request is expected to hold no more than it asks for, and shares none."""
    fields: dict[str, Any] = {
        "number": number,
        "request_id": request_id,
        "moves_in": False,
        "num_tokens": num_tokens,
        "expected_tokens": num_tokens if expected_tokens is None else expected_tokens,
        "max_tokens": num_tokens,
        "page_hashes": b"",
    }
    return ReservePages(**{**fields, **changes})


def hashes(*contents: str) -> bytes:
    """Hash page contents, each with all before it."""
    chain = ["/".join(contents[: end + 1]) for end in range(len(contents))]
    return b"".join(md5(each.encode(), usedforsecurity=False).digest() for each in chain)


def filled(number: int, request_id: RequestId, first_page: int, page_hashes: bytes) -> PagesFilled:
    """Say that pages of a request are full."""
    pages = FilledPages(request_id=request_id, first_page=first_page, page_hashes=page_hashes)
    return PagesFilled(number=number, filled=(pages,))


def release(number: int, request_id: RequestId) -> ReleasePages:
    """Give a request's pages back."""
    return ReleasePages(number=number, request_id=request_id)


def say(state: KvManagerState, message: Message) -> Message:
    """Give the one answer to a message."""
    [answer] = sent(state.handle(message, 0.0))
    return answer


def granted(
    number: int,
    request_id: RequestId,
    pages: Iterable[int],
    worker_id: WorkerId = CPU_0,
    epoch: int = 1,
    num_found: int = 0,
) -> PagesReserved:
    """A grant."""
    return PagesReserved(
        number=number,
        request_id=request_id,
        worker_id=worker_id,
        epoch=Epoch(epoch),
        new_pages=tuple(map(PageId, pages)),
        num_found=num_found,
    )


def refused(
    number: int,
    request_id: RequestId,
    needed: int,
    available: int,
    victims: tuple[RequestId, ...] = (),
    *,
    fits_never: bool = False,
) -> ReserveRefused:
    """A refusal."""
    return ReserveRefused(
        number=number,
        request_id=request_id,
        needed=needed,
        available=available,
        fits_never=fits_never,
        victims=victims,
    )
