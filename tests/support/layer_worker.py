"""A layer worker's surroundings for tests: its route, its engine's results, its effects."""

from typing import Any

import numpy as np

from common.ids import MicrobatchId
from common.messages import (
    AttentionRequest,
    Route,
    StepFailed,
    Tensor,
)
from common.runtime.effects import (
    Run,
    Send,
)
from services.layer_worker.state import LayerWorkerState
from services.layer_worker.work import (
    LayerBegun,
    RangeEnded,
    TokensChosen,
)
from tests.support.step import (
    ROUTER,
    attention_result,
    entry,
    hop,
    int32,
    layer_role,
    shards_of,
)

NUM_LAYERS = 4
ME, NEXT = hop("layers-0"), hop("layers-1")
LEFT, RIGHT = hop("attention-0"), hop("attention-1")
WHOLE, FIRST, LAST = (
    layer_role(0, NUM_LAYERS, NUM_LAYERS),
    layer_role(0, 2, NUM_LAYERS),
    layer_role(2, NUM_LAYERS, NUM_LAYERS),
)
ENTRIES = [entry(11, 3), entry(12, 0, 5, sample=False), entry(13, 8)]
"""1 row and page on the left; 5 and 1 rows, 2 and 3 pages on the right."""
SHARDS = shards_of(ENTRIES, [(LEFT, 1), (RIGHT, 2)])
ALONE = Route(layer_workers=(ME,), shards=SHARDS)
BOTH = Route(layer_workers=(ME, NEXT), shards=SHARDS)


def begun(microbatch_id: int, *, engine_s: float = 0.0, carry: Any = None) -> LayerBegun:
    rows = sum(each[2] for each in ENTRIES)
    qkv = np.arange(rows * 4, dtype=np.float32).reshape(rows, 4)
    return LayerBegun(
        microbatch_id=MicrobatchId(microbatch_id),
        carry=carry or f"carry of {microbatch_id}",
        qkv=Tensor.of(qkv),
        written_kv=None,
        engine_s=engine_s,
    )


def chosen(microbatch_id: int, *, engine_s: float = 0.0) -> TokensChosen:
    return TokensChosen(
        microbatch_id=MicrobatchId(microbatch_id),
        tokens=int32([5, 6]),
        finite=Tensor.of(np.ones(2, np.int8)),
        logprobs=Tensor.of(np.zeros(2, np.float32)),
        top_tokens=int32(np.empty((2, 0))),
        top_logprobs=Tensor.of(np.empty((2, 0), np.float32)),
        engine_s=engine_s,
    )


def ended(microbatch_id: int) -> RangeEnded:
    rows = Tensor.of(np.ones((7, 2), np.float32))
    return RangeEnded(microbatch_id=MicrobatchId(microbatch_id), hidden=rows, engine_s=0.0)


def work_of(effects: list[Any]) -> Any:
    """Give the one piece of work among effects; None if there is none."""
    works = [effect.work for effect in effects if isinstance(effect, Run)]
    assert len(works) <= 1
    return works[0] if works else None


def sent(effects: list[Any], kind: type) -> list[Any]:
    return [
        effect.message
        for effect in effects
        if isinstance(effect, Send) and isinstance(effect.message, kind)
    ]


def scatter(state: LayerWorkerState, microbatch_id: int, now: float = 0.0) -> list[Any]:
    """Let the engine begin the microbatch's layer; give the attention requests."""
    return sent(state.handle(begun(microbatch_id), now), AttentionRequest)


def answer(state: LayerWorkerState, requests: list[AttentionRequest], now: float = 0.0) -> Any:
    """Bring the results of all shards; give the work that follows."""
    works = [work_of(state.handle(attention_result(request), now)) for request in requests]
    return works[-1]


def failures(effects: list[Any]) -> list[tuple[int, str]]:
    assert all(
        effect.to == ROUTER
        for effect in effects
        if isinstance(effect, Send) and isinstance(effect.message, StepFailed)
    )
    return [(each.microbatch_id, each.reason) for each in sent(effects, StepFailed)]
