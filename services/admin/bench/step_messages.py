"""One message of each kind that a decode step sends, of a chosen size and with nothing in it."""

from dataclasses import dataclass

import numpy as np

from common.ids import Endpoint, Epoch, MicrobatchId, WorkerId
from common.messages import (
    AttentionRequest,
    AttentionResult,
    ForwardMicrobatch,
    HiddenStates,
    Hop,
    Message,
    Route,
    SampledTokens,
    Sampling,
    Shard,
    StageTimes,
    Tensor,
)
from common.messages.entries import NUM_COLUMNS, SAMPLE

_ID, _DTYPE = MicrobatchId(1), "bf16"
_NO_TIMES = StageTimes(
    tier1_s=0.0, tier2_s=0.0, wait_s=0.0, queue_s=0.0, attention_s=0.0, attention_queue_s=0.0
)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepSize:
    """What decides how large the messages of a step are."""

    num_entries: int = 64
    context: int = 320
    page_size: int = 64
    hidden_size: int = 1024
    qkv_size: int = 1536
    query_size: int = 1024


def step_messages(size: StepSize) -> list[Message]:
    """Make the messages of one decode step whose entries all live on one attention worker."""
    rows, pages = size.num_entries, -(-size.context // size.page_size)
    entries = np.empty((rows, NUM_COLUMNS), np.int32)
    entries[:] = (0, size.context - 1, 1, pages, 1, SAMPLE)
    entries[:, 0] = np.arange(rows)
    layers, attention = _hop("layers"), _hop("attention")
    shard = Shard(
        worker=attention,
        start_entry=0,
        stop_entry=rows,
        start_row=0,
        stop_row=rows,
        start_page=0,
        stop_page=rows * pages,
    )
    forward = ForwardMicrobatch(
        microbatch_id=_ID,
        oldest_live=_ID,
        route=Route(layer_workers=(layers, layers), shards=(shard,)),
        entries=Tensor.of(entries),
        page_table=Tensor.of(np.arange(rows * pages, dtype=np.int32)),
        token_ids=_ints(rows),
        sampling=_greedy(rows),
    )
    return [forward, *_of_layers(forward, size), _sampled(rows)]


def _of_layers(forward: ForwardMicrobatch, size: StepSize) -> list[Message]:
    rows = size.num_entries
    hidden = HiddenStates(
        microbatch_id=_ID,
        oldest_live=_ID,
        route=forward.route,
        range_index=1,
        entries=forward.entries,
        page_table=forward.page_table,
        sampling=forward.sampling,
        hidden=_activations(rows, size.hidden_size),
        times=_NO_TIMES,
    )
    request = AttentionRequest(
        microbatch_id=_ID,
        oldest_live=_ID,
        layer=0,
        shard=0,
        reply_to=forward.route.layer_workers[0],
        entries=forward.entries,
        page_table=forward.page_table,
        qkv=_activations(rows, size.qkv_size),
    )
    result = AttentionResult(
        microbatch_id=_ID,
        layer=0,
        shard=0,
        output=_activations(rows, size.query_size),
        log_sums=None,
        engine_s=0.0,
        queue_s=0.0,
    )
    return [request, result, hidden]


def _sampled(rows: int) -> SampledTokens:
    return SampledTokens(
        microbatch_id=_ID,
        request_ids=_ints(rows),
        tokens=_ints(rows),
        finite=Tensor.of(np.ones(rows, np.int8)),
        logprobs=_floats(rows),
        top_tokens=_ints(rows, 0),
        top_logprobs=_floats(rows, 0),
        times=_NO_TIMES,
    )


def _greedy(rows: int) -> Sampling:
    return Sampling(
        floats=_floats(rows, 6),
        ints=_ints(rows, 5),
        uniforms=Tensor.of(np.zeros(rows)),
        history=_ints(0),
        bias_tokens=_ints(0),
        bias_values=_floats(0),
        grammars=None,
    )


def _hop(name: str) -> Hop:
    return Hop(worker_id=WorkerId(name), endpoint=Endpoint("tcp://127.0.0.1:5555"), epoch=Epoch(1))


def _ints(*shape: int) -> Tensor:
    return Tensor.of(np.zeros(shape, np.int32))


def _floats(*shape: int) -> Tensor:
    return Tensor.of(np.zeros(shape, np.float32))


def _activations(rows: int, width: int) -> Tensor:
    return Tensor(dtype=_DTYPE, shape=(rows, width), memory=memoryview(bytes(2 * rows * width)))
