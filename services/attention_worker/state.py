"""Decides what an attention worker does next: who may write, and which shard is served first."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import GlinthawkError, PageFault
from common.ids import MicrobatchId
from common.messages import (
    AttentionRequest,
    AttentionResult,
    AttentionRole,
    Hop,
    Register,
    Registered,
    RouterHeartbeat,
    StepFailed,
    WriteRequest,
    Written,
)
from common.policy.ordering import ATTENTION, Depth, Order, ReadyQueue, deepest_first
from common.runtime.counters import Measured
from common.runtime.effects import Effect, Note, Run, Send, Stop, TermRaised, WorkFailed
from common.runtime.loop import EXIT_BUG, EXIT_ERROR
from common.runtime.member import Member, Patience
from services.attention_worker.fence import PageFence
from services.attention_worker.speed import Speed
from services.attention_worker.work import (
    AllocatePool,
    Attend,
    Attended,
    PoolAllocated,
    Work,
    Write,
    WriteDone,
)

_Request = AttentionRequest | WriteRequest


@dataclass(frozen=True, slots=True)
class _Shard:
    """A shard that was let in and waits for the engine."""

    request: _Request
    pages: NDArray[np.int32]
    """Those that it will write to."""
    since_s: float
    """When it arrived."""


class AttentionWorkerState:
    """The fence of the page pool, and one engine that serves the deepest layer first.

    Nothing is known here about requests: each entry brings its page table along.
    """

    def __init__(
        self,
        register: Register,
        router: Hop,
        patience: Patience,
        measured: Callable[[], Measured],
        order: Order = deepest_first,
        *,
        max_brief_s: float = 0.0,
    ) -> None:
        """Make a worker that is no member yet and has no pool.

        Args:
            register: What it says about itself.
            router: Its epoch is 0.
            patience: How long to wait for the router.
            measured: Gives what heartbeats tell, except of the engine.
            order: In which waiting shards are served.
            max_brief_s: Work that takes no longer may be done by the loop, if no other microbatch
                is here: then nothing can arrive meanwhile.
        """
        self._worker_id = register.worker_id
        self._router = router
        self._member = Member(register, router, patience, lambda: self._measure(measured()))
        self._speed = Speed()
        self._max_brief_s = max_brief_s
        self._ready: ReadyQueue[_Shard] = ReadyQueue(order)
        self._running: Work | None = None
        self._queue_s = 0.0
        """How long the running shard had waited."""
        self._role: AttentionRole | None = None
        """What the router wants it to be."""
        self._pool: PoolAllocated | None = None
        self._fence = PageFence(0, 1)
        self._oldest_live = MicrobatchId(0)

    def start(self, now: float) -> list[Effect]:
        """Knock at the router's door."""
        return self._member.start(now)

    @property
    def num_ready(self) -> int:
        """Shards that wait for the engine."""
        return len(self._ready)

    @property
    def is_ready(self) -> bool:
        """Whether the router may give it work."""
        return self._member.is_ready

    def handle(self, event: Any, now: float) -> list[Effect]:
        """Take a message, a result of the engine or an event; give what is to be done."""
        effects = [*self._decide(event, now), *self._occupy(now)]
        return [*effects, *self._member.settle(idle=self._running is None)]

    def _measure(self, measured: Measured) -> Measured:
        busy = self._running is not None
        return replace(measured, busy=busy, tokens_per_s=self._speed.tokens_per_s)

    def _decide(self, event: Any, now: float) -> list[Effect]:
        match event:
            case AttentionRequest() | WriteRequest():
                return self._arrive(event, now)
            case Attended() | WriteDone():
                self._running = None
                if isinstance(event, Attended):
                    self._speed.note(event.request, event.engine_s)
                return self._answer(event)
            case PoolAllocated(role=role, num_pages=num_pages):
                self._running, self._pool = None, event
                self._fence = PageFence(num_pages, role.page_size)
                return self._member.ready(num_pages) if role == self._role else []
            case WorkFailed():
                self._running = None
                return self._fail_work(event)
            case _:
                return [*self._member.handle(event, now), *self._decide_for_all(event)]

    def _decide_for_all(self, event: Any) -> list[Effect]:
        """Take what concerns the worker as a whole, beyond its membership."""
        match event:
            case Registered(attention=AttentionRole() as role):
                return self._become(role)
            case RouterHeartbeat(oldest_live=oldest_live):
                self._end_older(oldest_live)
            case TermRaised():
                self._ready.clear()
        return []

    def _become(self, role: AttentionRole) -> list[Effect]:
        """Take on a role; a pool that was made for it stays, with all that is in it."""
        if role != self._role:
            self._ready.clear()
        self._role = role
        if self._pool and self._pool.role == role:
            return self._member.ready(self._pool.num_pages)
        return []  # `PoolAllocated` will say it

    def _arrive(self, request: _Request, now: float) -> list[Effect]:
        self._end_older(request.oldest_live)
        if request.microbatch_id < self._oldest_live:
            return [_dropped(request, "it has ended")]
        if self._pool is None or self._pool.role != self._role:
            return [self._failed(request, "its page pool is not allocated yet")]
        try:
            pages = self._fence.claim(request)
        except PageFault as fault:
            return [self._failed(request, str(fault))]
        if pages is None:
            return [_dropped(request, _LATE)]
        depth = Depth(layer=request.layer, stage=ATTENTION, microbatch_id=request.microbatch_id)
        self._ready.push(depth, _Shard(request, pages, now))
        return []

    def _answer(self, done: Attended | WriteDone) -> list[Effect]:
        request = done.request
        if request.microbatch_id < self._oldest_live:
            return []
        return [Send(request.reply_to, _result_of(done, self._queue_s))]

    def _occupy(self, now: float) -> list[Effect]:
        """Give the engine something to do if it has nothing."""
        if self._running is not None:
            return []
        if self._role is not None and (self._pool is None or self._pool.role != self._role):
            self._pool = None
            self._running = AllocatePool(role=self._role)
            return [Run(self._running)]
        return self._attend_deepest(now)

    def _attend_deepest(self, now: float) -> list[Effect]:
        late: list[Effect] = []
        while len(self._ready):
            shard = self._ready.pop()
            # A higher microbatch may have come for the same pages while this one waited.
            if self._fence.admits(shard.pages, shard.request.microbatch_id):
                self._running = _work_of(shard.request)
                self._queue_s = now - shard.since_s
                return [*late, Run(self._running, self._is_brief(shard.request))]
            late.append(_dropped(shard.request, _LATE))
        return late

    def _is_brief(self, request: _Request) -> bool:
        return (
            isinstance(request, AttentionRequest)
            and self._fence.knows_only(request.microbatch_id)
            and self._speed.expected_s(request) <= self._max_brief_s
        )

    def _fail_work(self, failure: WorkFailed) -> list[Effect]:
        """Give up what the engine could not do: a microbatch, or without a pool the whole life."""
        known = isinstance(failure.error, GlinthawkError)
        reason = str(failure.error) if known else repr(failure.error)
        if isinstance(failure.work, AllocatePool):
            return [Stop(reason, exit_code=EXIT_ERROR if known else EXIT_BUG)]
        bug = [] if known else [Note("engine failed", {"exc_info": failure.error}, level="error")]
        return [*bug, self._failed(failure.work.request, reason)]

    def _failed(self, request: _Request, reason: str) -> Send:
        message = StepFailed(
            microbatch_id=request.microbatch_id,
            worker_id=self._worker_id,
            reason=reason,
            blames=None,
        )
        return Send(self._router, message)

    def _end_older(self, oldest_live: MicrobatchId) -> None:
        if oldest_live > self._oldest_live:
            self._oldest_live = oldest_live
            self._ready.keep(lambda microbatch_id: microbatch_id >= oldest_live)
            self._fence.forget_older(oldest_live)


_LATE = "a later microbatch wrote to its pages"


def _work_of(request: _Request) -> Attend | Write:
    return Write(request=request) if isinstance(request, WriteRequest) else Attend(request=request)


def _result_of(done: Attended | WriteDone, queue_s: float) -> AttentionResult | Written:
    request = done.request
    if isinstance(done, WriteDone):
        return Written(
            microbatch_id=request.microbatch_id, layer=request.layer, shard=request.shard
        )
    return AttentionResult(
        microbatch_id=request.microbatch_id,
        layer=request.layer,
        shard=request.shard,
        output=done.output,
        log_sums=done.log_sums,
        engine_s=done.engine_s,
        queue_s=queue_s,
    )


def _dropped(request: _Request, reason: str) -> Note:
    fields = {"microbatch_id": request.microbatch_id, "layer": request.layer, "reason": reason}
    return Note("attention request dropped", fields, level="debug")
