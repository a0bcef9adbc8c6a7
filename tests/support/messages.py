"""Messages for tests: any message of any kind, from the type hints of its declaration."""

import dataclasses
import types
import typing
from types import NoneType
from typing import Any, NewType

import numpy as np
from hypothesis import strategies as st

from common.config import MAX_DRAIN_S
from common.errors import WireError
from common.ids import Endpoint, Epoch, MicrobatchId, PageId, RequestId, WorkerId
from common.messages import (
    MESSAGES,
    AttentionRequest,
    AttentionResult,
    AttentionRole,
    Drain,
    DrainWanted,
    FilledPages,
    ForwardMicrobatch,
    Grammars,
    HiddenStates,
    Hop,
    LayerRole,
    Message,
    PagesReserved,
    PageTable,
    ReservePages,
    Route,
    SampledTokens,
    Sampling,
    Shard,
    StageTimes,
    Tables,
    Tensor,
    WorkerJoined,
    WorkerReady,
    WriteRequest,
)
from common.messages.base import Record
from common.messages.checks import ACTIVATIONS, KEYS_AND_VALUES, MAX_PAGES, check
from common.messages.entries import FLAGS, LOCAL, NUM_PAGES, NUM_PROMPT, NUM_ROWS, SAMPLE
from common.messages.kv import HASH_BYTES
from common.messages.tensor import DTYPE_BYTES

_LIKELY: dict[Any, dict[str, st.SearchStrategy[Any]]] = {
    PagesReserved: {"num_found": st.integers(0, 2)},
    ReservePages: {"page_hashes": st.sampled_from([b"", bytes(HASH_BYTES)])},
    PageTable: {
        "num_sealed": st.integers(0, 1),
        "page_hashes": st.sampled_from([b"", bytes(HASH_BYTES)]),
    },
    Tables: {"part": st.integers(0, 1), "num_parts": st.integers(1, 2)},
    FilledPages: {"page_hashes": st.sampled_from([b"", bytes(HASH_BYTES)])},
    WorkerReady: {"num_pages": st.integers(0, MAX_PAGES)},
    WorkerJoined: {"num_pages": st.integers(0, MAX_PAGES)},
    Drain: {"deadline_s": st.floats(0, MAX_DRAIN_S)},
    DrainWanted: {"deadline_s": st.floats(0, MAX_DRAIN_S)},
    LayerRole: {"dtype": st.sampled_from(ACTIVATIONS)},
    AttentionRole: {"kv_dtype": st.sampled_from(KEYS_AND_VALUES)},
}
"""Fields that are seldom right if drawn freely."""
LARGEST: dict[Any, int] = {RequestId: 2**31 - 1, PageId: 2**31 - 1}

_TIMES = StageTimes(
    tier1_s=0.1, tier2_s=0.2, wait_s=0.3, queue_s=0.4, attention_s=0.5, attention_queue_s=0.6
)


def all_messages() -> st.SearchStrategy[Message]:
    return st.one_of([messages(kind) for kind in MESSAGES.values()])


def messages(kind: Any) -> st.SearchStrategy[Any]:
    """Draw messages of one kind; those whose fields depend on each other come from a microbatch."""
    if kind in _OF_A_MICROBATCH:
        return _rows_of_entries().map(lambda rows: _OF_A_MICROBATCH[kind](*rows))
    return _fields(kind).filter(_makes_sense)


def _makes_sense(message: Any) -> bool:
    try:
        check(message)
    except WireError:
        return False
    return True


def hop(name: str = "worker", endpoint: str = "tcp://127.0.0.1:5555", epoch: int = 7) -> Hop:
    return Hop(worker_id=WorkerId(name), endpoint=Endpoint(endpoint), epoch=Epoch(epoch))


def tensor(shape: tuple[int, ...], dtype: str = "fp32") -> Tensor:
    num_bytes = int(np.prod(shape)) * DTYPE_BYTES[dtype]
    memory = memoryview(bytes(number % 251 for number in range(num_bytes)))
    return Tensor(dtype=dtype, shape=shape, memory=memory)


def forward_microbatch(rows: list[int], flags: list[int], num_shards: int = 2) -> ForwardMicrobatch:
    entries, page_table = _entries(rows, flags)
    return ForwardMicrobatch(
        microbatch_id=MicrobatchId(5),
        oldest_live=MicrobatchId(3),
        route=_route(entries, num_shards),
        entries=Tensor.of(entries),
        page_table=Tensor.of(page_table),
        token_ids=Tensor.of(np.arange(sum(rows), dtype=np.int32)),
        sampling=_sampling(sum(flag & SAMPLE for flag in flags)),
    )


def hidden_states(rows: list[int], flags: list[int], num_shards: int = 2) -> HiddenStates:
    forward = forward_microbatch(rows, flags, num_shards)
    return HiddenStates(
        microbatch_id=forward.microbatch_id,
        oldest_live=forward.oldest_live,
        route=forward.route,
        range_index=1,
        entries=forward.entries,
        page_table=forward.page_table,
        sampling=forward.sampling,
        hidden=tensor((sum(rows), 8), "bf16"),
        times=_TIMES,
    )


def attention_request(rows: list[int], flags: list[int], num_shards: int = 2) -> AttentionRequest:
    entries, page_table = _entries(rows, flags)
    return AttentionRequest(
        microbatch_id=MicrobatchId(5),
        oldest_live=MicrobatchId(3),
        layer=1,
        shard=num_shards - 1,
        reply_to=hop(),
        entries=Tensor.of(entries),
        page_table=Tensor.of(page_table),
        qkv=tensor((sum(rows), 12), "fp16"),
    )


def attention_result(rows: list[int], flags: list[int], num_shards: int = 2) -> AttentionResult:
    return AttentionResult(
        microbatch_id=MicrobatchId(5),
        layer=len(flags),
        shard=num_shards - 1,
        output=tensor((sum(rows), 8)),
        log_sums=tensor((num_shards, 4)) if sum(rows) % 2 else None,
        engine_s=0.5,
        queue_s=0.25,
    )


def sampled_tokens(rows: list[int], flags: list[int], num_shards: int = 2) -> SampledTokens:
    num_sampled = sum(flag & SAMPLE for flag in flags)
    return SampledTokens(
        microbatch_id=MicrobatchId(5),
        request_ids=Tensor.of(np.arange(len(rows), dtype=np.int32)),
        tokens=Tensor.of(np.arange(num_sampled, dtype=np.int32)),
        finite=Tensor.of(np.ones(num_sampled, np.int8)),
        logprobs=Tensor.of(np.zeros(num_sampled, np.float32)),
        top_tokens=Tensor.of(np.zeros((num_sampled, num_shards), np.int32)),
        top_logprobs=Tensor.of(np.zeros((num_sampled, num_shards), np.float32)),
        times=_TIMES,
    )


def write_request(rows: list[int], flags: list[int], num_shards: int = 2) -> WriteRequest:
    entries, page_table = _entries(rows, flags)
    entries[:, NUM_PROMPT] = rows
    entries[:, FLAGS] |= LOCAL
    return WriteRequest(
        microbatch_id=MicrobatchId(5),
        oldest_live=MicrobatchId(3),
        layer=1,
        shard=num_shards - 1,
        reply_to=hop(),
        entries=Tensor.of(entries),
        page_table=Tensor.of(page_table),
        kv=tensor((sum(rows), 8), "bf16"),
    )


_OF_A_MICROBATCH: dict[Any, Any] = {
    WriteRequest: write_request,
    ForwardMicrobatch: forward_microbatch,
    HiddenStates: hidden_states,
    AttentionRequest: attention_request,
    AttentionResult: attention_result,
    SampledTokens: sampled_tokens,
}


@st.composite
def _rows_of_entries(draw: st.DrawFn) -> tuple[list[int], list[int], int]:
    rows = draw(st.lists(st.integers(1, 5), min_size=1, max_size=6))
    flags = draw(st.lists(st.sampled_from([0, SAMPLE]), min_size=len(rows), max_size=len(rows)))
    return rows, flags, draw(st.integers(1, len(rows)))


def _entries(rows: list[int], flags: list[int]) -> tuple[Any, Any]:
    entries = np.zeros((len(rows), 6), np.int32)
    entries[:, 0] = np.arange(len(rows))
    entries[:, NUM_ROWS] = rows
    entries[:, NUM_PAGES] = 1 + np.arange(len(rows)) % 2
    entries[:, FLAGS] = flags
    return entries, np.arange(entries[:, NUM_PAGES].sum(), dtype=np.int32)


def _route(entries: Any, num_shards: int) -> Route:
    bounds = np.linspace(0, len(entries), min(num_shards, len(entries)) + 1).astype(int)
    before = np.concatenate([[0], entries[:, NUM_ROWS].cumsum()]).tolist()
    pages = np.concatenate([[0], entries[:, NUM_PAGES].cumsum()]).tolist()
    shards = [
        Shard(
            worker=hop(f"attention-{start}"),
            start_entry=start,
            stop_entry=stop,
            start_row=before[start],
            stop_row=before[stop],
            start_page=pages[start],
            stop_page=pages[stop],
        )
        for start, stop in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True)
    ]
    return Route(layer_workers=(hop("layer-0"), hop("layer-1")), shards=tuple(shards))


def _sampling(num_sampled: int) -> Sampling:
    ints = np.zeros((num_sampled, 5), np.int32)
    ints[:, 2:] = (2, 1, 1)
    return Sampling(
        floats=Tensor.of(np.zeros((num_sampled, 6), np.float32)),
        ints=Tensor.of(ints),
        uniforms=Tensor.of(np.full(num_sampled, 0.5)),
        history=Tensor.of(np.zeros(3 * num_sampled, np.int32)),
        bias_tokens=Tensor.of(np.zeros(num_sampled, np.int32)),
        bias_values=Tensor.of(np.full(num_sampled, -np.inf, np.float32)),
        grammars=_grammars(num_sampled) if num_sampled else None,
    )


def _grammars(num_sampled: int) -> Grammars:
    return Grammars(
        entries=Tensor.of(np.array([(num_sampled - 1, 7, 0, 2)], np.int32)),
        tokens=Tensor.of(np.zeros(2, np.int32)),
        texts=Tensor.of(np.frombuffer(b"{}", np.int8)),
        text_sizes=Tensor.of(np.array([2], np.int32)),
    )


def _fields(kind: Any) -> st.SearchStrategy[Any]:
    hints = typing.get_type_hints(kind)
    drawn = {field.name: _values(hints[field.name]) for field in dataclasses.fields(kind)}
    return st.builds(kind, **{**drawn, **_LIKELY.get(kind, {})})


def _values(hint: Any) -> st.SearchStrategy[Any]:
    if isinstance(hint, NewType):
        if hint.__supertype__ is int:
            return st.integers(0, LARGEST.get(hint, 2**63 - 1))
        return _values(hint.__supertype__)
    if isinstance(hint, type) and issubclass(hint, Message | Record):
        return _fields(hint)
    arguments = typing.get_args(hint)
    match typing.get_origin(hint):
        case None:
            return _SIMPLE[hint]
        case typing.Literal:
            return st.sampled_from(arguments)
        case typing.Union | types.UnionType:
            present = [argument for argument in arguments if argument is not NoneType]
            return st.none() | _values(present[0])
        case _:
            return st.lists(_values(arguments[0]), max_size=4).map(tuple)


_SIMPLE: dict[Any, st.SearchStrategy[Any]] = {
    int: st.integers(0, 2**63 - 1),
    float: st.floats(allow_nan=False),
    bool: st.booleans(),
    str: st.text(max_size=20),
    bytes: st.binary(max_size=20),
    Tensor: st.builds(
        tensor, st.lists(st.integers(0, 3), max_size=3).map(tuple), st.sampled_from([*DTYPE_BYTES])
    ),
}
