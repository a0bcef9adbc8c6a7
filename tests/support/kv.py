"""What tests say to a KV manager, and a KV manager to say it to."""

from typing import Any

from common.ids import Endpoint, Epoch, RequestId, Term, WorkerId
from common.messages import (
    Hop,
    Message,
    Register,
    ReleasePages,
    ReservePages,
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


def make_state() -> KvManagerState:
    """Make a KV manager that knows no pool yet."""
    register = Register(
        worker_id=WorkerId("kv"),
        epoch=Epoch(9),
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
    number: int, request_id: RequestId, num_tokens: int, expected_tokens: int | None = None
) -> ReservePages:
    """Ask for pages; a request is expected to hold no more than it asks for."""
    return ReservePages(
        number=number,
        request_id=request_id,
        num_tokens=num_tokens,
        expected_tokens=num_tokens if expected_tokens is None else expected_tokens,
    )


def release(number: int, request_id: RequestId) -> ReleasePages:
    """Give a request's pages back."""
    return ReleasePages(number=number, request_id=request_id)
