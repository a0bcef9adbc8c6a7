"""A router's state with a small cluster around it, for tests of what it decides."""

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np

from common.ids import Endpoint, Epoch, JobId, PageId, Term, WorkerId
from common.messages import (
    AttentionRole,
    DrainWanted,
    ForwardMicrobatch,
    Heartbeat,
    Hop,
    PagesReserved,
    Register,
    Registered,
    ReservePages,
    Role,
    SampledTokens,
    Tensor,
    WorkerReady,
)
from common.messages.entries import FLAGS, REQUEST_ID, SAMPLE
from common.policy.ranges import cut_evenly
from common.runtime.effects import LinkLost, Send, TimerFired
from services.router.lines import GREEDY, LinesReady, ParsedLine, StopRules
from services.router.membership import ClusterShape, cut_layers
from services.router.page_rules import PageRules
from services.router.state import RouterState, Times
from services.router.throttle import Rules
from tests.support.step import NO_TIMES

MODEL = "spec-weights"
PAGE_SIZE = 4
E = TypeVar("E")


def stop_after(max_tokens: int, **changes: Any) -> StopRules:
    """Stop rules with a length limit alone."""
    rules: dict[str, Any] = {
        "max_tokens": max_tokens,
        "min_tokens": 0,
        "eos_token_ids": (),
        "token_ids": (),
        "strings": (),
        "include_in_text": False,
    }
    return StopRules(**{**rules, **changes})


def line(number: int, prompt: Sequence[int] = (1, 2, 3), **changes: Any) -> ParsedLine:
    """A greedy line with one choice."""
    fields: dict[str, Any] = {
        "job_id": JobId("job"),
        "number": number,
        "custom_id": f"line-{number}",
        "kind": "completion",
        "model": "tiny",
        "prompts": (tuple(prompt),),
        "n": 1,
        "sampling": GREEDY,
        "stop": stop_after(2),
        "skip_special_tokens": True,
        "return_token_ids": False,
    }
    return ParsedLine(**{**fields, **changes})


def hop(name: str, epoch: int = 1) -> Hop:
    """A worker's address in the cluster of these tests."""
    return Hop(
        worker_id=WorkerId(name), endpoint=Endpoint(f"ipc://{name}-{epoch}"), epoch=Epoch(epoch)
    )


def link_lost(name: str, epoch: int = 1) -> LinkLost:
    """What the router is told when a worker's process ends."""
    where = hop(name, epoch)
    return LinkLost(where.endpoint, where.epoch)


def register(name: str, role: Role, epoch: int = 1, **changes: Any) -> Register:
    """A worker's first word."""
    where = hop(name, epoch)
    fields: dict[str, Any] = {
        "worker_id": where.worker_id,
        "epoch": where.epoch,
        "role": role,
        "endpoint": where.endpoint,
        "host": "one",
        "ordinal": None,
        "model": MODEL if role == "layer_worker" else None,
        "kernel_path": "cpu-torch",
        "term": Term(0),
    }
    return Register(**{**fields, **changes})


def sent(effects: Sequence[Any], kind: type[E]) -> list[E]:
    """The messages of a kind that these effects send."""
    return [
        effect.message
        for effect in effects
        if isinstance(effect, Send) and isinstance(effect.message, kind)
    ]


def of_kind(effects: Sequence[Any], kind: type[E]) -> list[E]:
    """The effects of a kind."""
    return [effect for effect in effects if isinstance(effect, kind)]


def heartbeat(name: str, epoch: int = 1, **changes: Any) -> Heartbeat:
    """What a resting worker says in between."""
    fields: dict[str, Any] = {
        "worker_id": WorkerId(name),
        "epoch": Epoch(epoch),
        "progress": 0,
        "busy": False,
        "busy_s": 0.0,
        "tokens_per_s": 0.0,
        "links": (),
        "waiting_for": (),
    }
    return Heartbeat(**{**fields, **changes})


def drain_wanted(name: str, epoch: int = 1, deadline_s: float = 8.0) -> DrainWanted:
    """What a worker says that was asked to end."""
    return DrainWanted(worker_id=WorkerId(name), epoch=Epoch(epoch), deadline_s=deadline_s)


class RouterBench:
    """A router's state, and the answers that its cluster would give."""

    def __init__(
        self,
        *,
        num_ranges: int = 1,
        max_rows: int = 64,
        in_flight: int | None = 1,
        min_attention_workers: int = 1,
        checkpoint_tokens: int = 64,
        pages: PageRules | None = None,
        page_size: int = PAGE_SIZE,
    ):
        rules_of_pages = pages or PageRules(max_requests=16)
        shape = ClusterShape(
            model=MODEL,
            ranges=cut_layers(cut_evenly(4, num_ranges), "fp32"),
            attention=AttentionRole(
                num_layers=4,
                num_heads=2,
                num_kv_heads=1,
                head_size=8,
                sliding_windows=(None,) * 4,
                page_size=page_size,
                kv_dtype="fp32",
                useful_pages=64,
            ),
            min_attention_workers=min_attention_workers,
        )
        rules = Rules(
            pages=rules_of_pages,
            max_entries=rules_of_pages.max_requests,
            max_rows=max_rows,
            in_flight=in_flight,
            checkpoint_tokens=checkpoint_tokens,
        )
        self.state = RouterState(shape, Term(1), rules, Times(), lambda _: str)
        self.state.scheduler.requests.next_batch_id = 0  # ids that a test can spell
        self.state.start(0.0)
        self.now = 0.0
        self._page_size = page_size
        self._next_page = 0

    def tell(self, event: Any) -> list[Any]:
        """Let the state handle an event, at this moment."""
        return self.state.handle(event, self.now)

    def join(self, name: str, role: Role, epoch: int = 1, **changes: Any) -> list[Any]:
        """Register a worker and let it be ready."""
        message = register(name, role, epoch, **changes)
        registered = self.tell(message)
        ready = WorkerReady(
            worker_id=message.worker_id,
            epoch=message.epoch,
            num_pages=8 if "a" in name else 0,
            layers=next((each.layers for each in sent(registered, Registered)), None),
        )
        return [*registered, *self.tell(ready)]

    def join_all(self, layer_workers: int = 1, attention_workers: int = 1) -> None:
        """Let a whole cluster join."""
        self.join("kv", "kv_manager")
        for index in range(layer_workers):
            self.join(f"layer-{index}", "layer_worker")
        for index in range(attention_workers):
            self.join(f"attention-{index}", "attention_worker")

    def submit(self, *lines: ParsedLine) -> list[Any]:
        """Hand lines to the state."""
        return self.tell(LinesReady(lines=lines))

    def grant(
        self, effects: Sequence[Any], worker: str = "attention-0", epoch: int = 1
    ) -> list[Any]:
        """Answer every reservation among the effects."""
        answers: list[Any] = []
        for message in sent(effects, ReservePages):
            num_pages = -(-message.num_tokens // self._page_size)
            pages = range(self._next_page, self._next_page + num_pages)
            self._next_page += num_pages
            answers += self.tell(
                PagesReserved(
                    number=message.number,
                    request_id=message.request_id,
                    worker_id=WorkerId(worker),
                    epoch=Epoch(epoch),
                    new_pages=tuple(map(PageId, pages)),
                    num_found=0,
                )
            )
        return answers

    def run(self, *lines: ParsedLine) -> ForwardMicrobatch:
        """Submit lines, grant their pages, and give the first microbatch."""
        return sent(self.grant(self.submit(*lines)), ForwardMicrobatch)[0]

    def come_home(self, microbatch: ForwardMicrobatch, token: int = 7, **changes: Any) -> list[Any]:
        """Let a microbatch come home with this token for every sampled entry."""
        return self.tell(homecoming(microbatch, token, **changes))


def beat(bench: RouterBench, *times: float) -> list[Any]:
    """Let the router's heart beat at these times; gives what the last beat did."""
    effects: list[Any] = []
    for bench.now in times:
        effects = bench.tell(TimerFired("heartbeat"))
    return effects


def homecoming(microbatch: ForwardMicrobatch, token: int = 7, **changes: Any) -> SampledTokens:
    """What the last range would say about a microbatch."""
    entries = microbatch.entries.numpy()
    num_sampled = int((entries[:, FLAGS] & SAMPLE).sum())
    fields: dict[str, Any] = {
        "microbatch_id": microbatch.microbatch_id,
        "request_ids": Tensor.of(entries[:, REQUEST_ID]),
        "tokens": Tensor.of(np.full(num_sampled, token, np.int32)),
        "finite": Tensor.of(np.ones(num_sampled, np.int8)),
        "logprobs": Tensor.of(np.full(num_sampled, -0.5, np.float32)),
        "top_tokens": Tensor.of(np.zeros((num_sampled, 0), np.int32)),
        "top_logprobs": Tensor.of(np.zeros((num_sampled, 0), np.float32)),
        "times": NO_TIMES,
    }
    return SampledTokens(**{**fields, **changes})
