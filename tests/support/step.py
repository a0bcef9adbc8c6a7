"""Messages of a step, small and valid, for tests that care about few of their fields."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from common.ids import Endpoint, Epoch, MicrobatchId, Term, WorkerId
from common.messages import (
    AttentionRequest,
    AttentionResult,
    AttentionRole,
    ForwardMicrobatch,
    Grammars,
    HiddenStates,
    Hop,
    LayerRole,
    Register,
    Registered,
    Route,
    Sampling,
    Shard,
    StageTimes,
    Tensor,
)
from common.messages.entries import NUM_PAGES, NUM_ROWS, SAMPLE
from common.runtime.counters import Measured
from common.runtime.member import Patience

PATIENCE = Patience(register_interval_s=1.0, router_silence_s=3.0, stop_timeout_s=10.0)
PAGE_SIZE = 4
NO_TIMES = StageTimes(
    tier1_s=0.0, tier2_s=0.0, wait_s=0.0, queue_s=0.0, attention_s=0.0, attention_queue_s=0.0
)


def hop(name: str, epoch: int = 1) -> Hop:
    return Hop(worker_id=WorkerId(name), endpoint=Endpoint(f"ipc:///{name}"), epoch=Epoch(epoch))


ROUTER = hop("router", epoch=0)


def nothing_measured() -> Measured:
    return Measured(progress=0, busy_s=0.0)


def register_of(worker: Hop, role: Any) -> Register:
    return Register(
        worker_id=worker.worker_id,
        epoch=worker.epoch,
        role=role,
        endpoint=worker.endpoint,
        host="here",
        ordinal=None,
        model=None,
        kernel_path="none",
        term=Term(0),
    )


def registered(role: LayerRole | AttentionRole) -> Registered:
    return Registered(
        layers=role if isinstance(role, LayerRole) else None,
        attention=role if isinstance(role, AttentionRole) else None,
        heartbeat_s=1.0,
    )


def layer_role(start: int, stop: int, num_layers: int, dtype: str = "fp32") -> LayerRole:
    return LayerRole(
        start=start,
        stop=stop,
        first=start == 0,
        last=stop == num_layers,
        dtype=dtype,
        quantization="none",
    )


def entry(
    request_id: int,
    start: int = 0,
    num_rows: int = 1,
    *,
    num_pages: int | None = None,
    num_prompt: int | None = None,
    sample: bool = True,
    page_size: int = PAGE_SIZE,
) -> tuple[int, ...]:
    """Give a row of the entries; by default all its rows are prompt and its pages just suffice."""
    stop = start + num_rows
    pages = -(-stop // page_size) if num_pages is None else num_pages
    return (request_id, start, num_rows, pages, stop if num_prompt is None else num_prompt, sample)


def int32(values: Any) -> Tensor:
    return Tensor.of(np.asarray(values, np.int32))


def shards_of(entries: Sequence[tuple[int, ...]], workers: Sequence[tuple[Hop, int]]) -> Any:
    """Cut entries into shards: so many for each attention worker."""
    columns = np.asarray(entries)
    ends = np.vstack([np.zeros((1, 6), np.int64), columns.cumsum(axis=0)])
    shards, start = [], 0
    for worker, count in workers:
        stop = start + count
        shards.append(
            Shard(
                worker=worker,
                start_entry=start,
                stop_entry=stop,
                start_row=int(ends[start, NUM_ROWS]),
                stop_row=int(ends[stop, NUM_ROWS]),
                start_page=int(ends[start, NUM_PAGES]),
                stop_page=int(ends[stop, NUM_PAGES]),
            )
        )
        start = stop
    return tuple(shards)


def sampling_of(
    num_sampled: int,
    *,
    floats: Any = None,
    ints: Any = None,
    uniforms: Any = None,
    history: Any = (),
    bias_tokens: Any = (),
    bias_values: Any = (),
    grammars: Grammars | None = None,
) -> Sampling:
    """Give sampling columns; by default all entries are greedy."""
    greedy = np.tile(np.array([0, 1, 0, 0, 0, 1], np.float32), (num_sampled, 1))
    return Sampling(
        floats=Tensor.of(greedy if floats is None else np.asarray(floats, np.float32)),
        ints=int32(np.zeros((num_sampled, 5)) if ints is None else ints),
        uniforms=Tensor.of(
            np.full(num_sampled, 0.5) if uniforms is None else np.asarray(uniforms, np.float64)
        ),
        history=int32(history),
        bias_tokens=int32(bias_tokens),
        bias_values=Tensor.of(np.asarray(bias_values, np.float32)),
        grammars=grammars,
    )


def forward(
    microbatch_id: int,
    entries: Sequence[tuple[int, ...]],
    route: Route,
    *,
    oldest_live: int = 0,
    token_ids: Any = None,
    page_table: Any = None,
    sampling: Sampling | None = None,
) -> ForwardMicrobatch:
    columns = np.asarray(entries)
    num_rows, num_pages = int(columns[:, NUM_ROWS].sum()), int(columns[:, NUM_PAGES].sum())
    num_sampled = sum(1 for each in entries if each[5] & SAMPLE)
    return ForwardMicrobatch(
        microbatch_id=MicrobatchId(microbatch_id),
        oldest_live=MicrobatchId(oldest_live),
        route=route,
        entries=int32(entries),
        page_table=int32(range(num_pages) if page_table is None else page_table),
        token_ids=int32(range(num_rows) if token_ids is None else token_ids),
        sampling=sampling or sampling_of(num_sampled),
    )


def hidden(step: ForwardMicrobatch, range_index: int, rows: Tensor) -> HiddenStates:
    """Give what the range before sends on of a step."""
    return HiddenStates(
        microbatch_id=step.microbatch_id,
        oldest_live=step.oldest_live,
        route=step.route,
        range_index=range_index,
        entries=step.entries,
        page_table=step.page_table,
        sampling=step.sampling,
        hidden=rows,
        times=NO_TIMES,
    )


def attention_request(
    microbatch_id: int,
    entries: Sequence[tuple[int, ...]],
    page_table: Any,
    *,
    layer: int = 0,
    oldest_live: int = 0,
    qkv: Tensor | None = None,
    reply_to: Hop | None = None,
) -> AttentionRequest:
    num_rows = sum(each[NUM_ROWS] for each in entries)
    return AttentionRequest(
        microbatch_id=MicrobatchId(microbatch_id),
        oldest_live=MicrobatchId(oldest_live),
        layer=layer,
        shard=0,
        reply_to=reply_to or hop("layers-0"),
        entries=int32(entries),
        page_table=int32(page_table),
        qkv=qkv or Tensor.of(np.zeros((num_rows, 4), np.float32)),
    )


def attention_result(
    request: AttentionRequest,
    output: Tensor | None = None,
    engine_s: float = 0.0,
    queue_s: float = 0.0,
) -> AttentionResult:
    """Answer a request, by default with zeros."""
    return AttentionResult(
        microbatch_id=request.microbatch_id,
        layer=request.layer,
        shard=request.shard,
        output=output or Tensor.of(np.zeros((request.qkv.shape[0], 2), np.float32)),
        log_sums=None,
        engine_s=engine_s,
        queue_s=queue_s,
    )
