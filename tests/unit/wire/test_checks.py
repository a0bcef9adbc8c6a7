"""What must hold between the fields of a step's messages."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from common.errors import WireError
from common.ids import Epoch, WorkerId
from common.messages import (
    AttentionRole,
    Drain,
    DrainWanted,
    Registered,
    Route,
    Sampling,
    Tensor,
    WorkerReady,
)
from common.messages.checks import MAX_PAGES, check
from common.messages.entries import FLAGS, NUM_PAGES, NUM_ROWS, SAMPLE, START
from tests.support.messages import (
    attention_request,
    attention_result,
    forward_microbatch,
    hidden_states,
    sampled_tokens,
    tensor,
)
from tests.support.step import layer_role

ROWS = [1, 3, 1]
FLAG_COLUMN = [SAMPLE, 0, SAMPLE]

FORWARD = forward_microbatch(ROWS, FLAG_COLUMN)
HIDDEN = hidden_states(ROWS, FLAG_COLUMN)
REQUEST = attention_request(ROWS, FLAG_COLUMN)
RESULT = attention_result(ROWS, FLAG_COLUMN)
SAMPLED = sampled_tokens(ROWS, FLAG_COLUMN)


def ints(*numbers: int) -> Tensor:
    return Tensor.of(np.array(numbers, np.int32))


def with_entry(column: int, value: int) -> Tensor:
    entries = FORWARD.entries.numpy().copy()
    entries[1, column] = value
    return Tensor.of(entries)


def with_shard(index: int, **changes: Any) -> Route:
    shards = list(FORWARD.route.shards)
    shards[index] = replace(shards[index], **changes)
    return replace(FORWARD.route, shards=tuple(shards))


def with_sampling(**changes: Tensor) -> Sampling:
    return replace(FORWARD.sampling, **changes)


@pytest.mark.parametrize("message", [FORWARD, HIDDEN, REQUEST, RESULT, SAMPLED])
def test_a_consistent_message_passes(message: Any) -> None:
    check(message)


@pytest.mark.parametrize("message", [FORWARD, HIDDEN, REQUEST])
@pytest.mark.parametrize(
    "entries",
    [
        with_entry(NUM_ROWS, 0),
        with_entry(NUM_ROWS, 4),
        with_entry(NUM_PAGES, 0),
        with_entry(NUM_PAGES, 3),
        with_entry(START, -1),
        with_entry(START, 2**31 - 1),
        with_entry(FLAGS, -1),
        Tensor.of(np.zeros((0, 6), np.int32)),
        Tensor.of(np.ones((3, 5), np.int32)),
        Tensor.of(np.ones((3, 6), np.int64)),
        tensor((3, 6), "bf16"),
    ],
)
def test_contradicting_entries_are_refused(message: Any, entries: Tensor) -> None:
    with pytest.raises(WireError):
        check(replace(message, entries=entries))


@pytest.mark.parametrize("message", [FORWARD, HIDDEN, REQUEST])
@pytest.mark.parametrize("page_table", [ints(0, 1, 2), ints(0, 1, 2, -1), tensor((4,), "fp32")])
def test_a_contradicting_page_table_is_refused(message: Any, page_table: Tensor) -> None:
    with pytest.raises(WireError, match="page_table"):
        check(replace(message, page_table=page_table))


@pytest.mark.parametrize("message", [FORWARD, HIDDEN])
@pytest.mark.parametrize(
    "route",
    [
        replace(FORWARD.route, layer_workers=()),
        replace(FORWARD.route, shards=()),
        replace(FORWARD.route, shards=FORWARD.route.shards[:1]),
        replace(FORWARD.route, shards=FORWARD.route.shards[::-1]),
        replace(FORWARD.route, shards=FORWARD.route.shards[:1] * 2),
        with_shard(0, start_entry=1),
        with_shard(0, stop_entry=0),
        with_shard(1, stop_entry=4),
        with_shard(1, stop_row=4),
        with_shard(1, start_row=2),
        with_shard(1, stop_page=5),
        with_shard(1, start_page=0),
    ],
)
def test_a_route_that_does_not_cover_the_entries_is_refused(message: Any, route: Route) -> None:
    with pytest.raises(WireError, match=r"shard|layer workers"):
        check(replace(message, route=route))


@pytest.mark.parametrize("message", [FORWARD, HIDDEN])
@pytest.mark.parametrize(
    "sampling",
    [
        with_sampling(floats=tensor((3, 6))),
        with_sampling(ints=tensor((2, 5), "int64")),
        with_sampling(ints=Tensor.of(-np.ones((2, 5), np.int32))),
        with_sampling(uniforms=Tensor.of(np.array([0.5, 1.0]))),
        with_sampling(uniforms=Tensor.of(np.array([0.5, np.nan]))),
        with_sampling(uniforms=Tensor.of(np.array([0.5]))),
        with_sampling(history=ints(1, 2, 3)),
        with_sampling(history=ints(1, 2, 3, 4, 5, -6)),
        with_sampling(bias_tokens=ints(1)),
        with_sampling(bias_tokens=ints(1, -1)),
        with_sampling(bias_values=ints(1, 1)),
    ],
)
def test_contradicting_sampling_is_refused(message: Any, sampling: Sampling) -> None:
    with pytest.raises(WireError):
        check(replace(message, sampling=sampling))


@pytest.mark.parametrize(
    "message",
    [
        replace(FORWARD, token_ids=ints(1, 2, 3, 4)),
        replace(FORWARD, token_ids=ints(1, 2, 3, 4, -5)),
        replace(HIDDEN, hidden=tensor((4, 8))),
        replace(HIDDEN, hidden=tensor((5, 8), "int32")),
        replace(HIDDEN, range_index=2),
        replace(REQUEST, qkv=tensor((4, 8))),
        replace(REQUEST, qkv=tensor((5,))),
        replace(RESULT, output=tensor((5,))),
        replace(RESULT, output=tensor((5, 8), "int8")),
    ],
)
def test_rows_that_contradict_the_entries_are_refused(message: Any) -> None:
    with pytest.raises(WireError):
        check(message)


@pytest.mark.parametrize(
    "changes",
    [
        {"request_ids": ints(1)},
        {"request_ids": ints(1, 2, -3)},
        {"tokens": ints(1, 2, 3)},
        {"tokens": ints(1, -1)},
        {"finite": tensor((2,), "int32")},
        {"logprobs": tensor((3,))},
        {"top_tokens": tensor((2,), "int32")},
        {"top_tokens": tensor((3, 2), "int32")},
        {"top_logprobs": tensor((2, 3))},
    ],
)
def test_contradicting_samples_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(WireError):
        check(replace(SAMPLED, **changes))


@pytest.mark.parametrize("heartbeat_s", [0.0, -1.0, float("nan"), float("inf")])
def test_a_heartbeat_that_is_no_interval_is_refused(heartbeat_s: float) -> None:
    with pytest.raises(WireError, match="heartbeat"):
        check(Registered(layers=None, attention=None, heartbeat_s=heartbeat_s))


@pytest.mark.parametrize("deadline_s", [-1.0, 1e300, float("nan"), float("inf")])
def test_a_time_to_leave_that_no_clock_could_keep_is_refused(deadline_s: float) -> None:
    with pytest.raises(WireError, match="to leave"):
        check(Drain(deadline_s=deadline_s))
    with pytest.raises(WireError, match="to leave"):
        check(DrainWanted(worker_id=WorkerId("w"), epoch=Epoch(1), deadline_s=deadline_s))


def test_a_role_in_a_dtype_that_nobody_computes_in_is_refused() -> None:
    layers = layer_role(0, 1, 1, dtype="fp33")
    attention = AttentionRole(
        num_layers=1, num_heads=1, num_kv_heads=1, head_size=1, sliding_windows=(None,),
        page_size=1, kv_dtype="", useful_pages=1,
    )  # fmt: skip
    fine = replace(layers, dtype="fp32")
    check(Registered(layers=fine, attention=None, heartbeat_s=1.0))

    with pytest.raises(WireError, match="layers in 'fp33'"):
        check(Registered(layers=layers, attention=None, heartbeat_s=1.0))
    with pytest.raises(WireError, match="keys and values in ''"):
        check(Registered(layers=None, attention=attention, heartbeat_s=1.0))


@pytest.mark.parametrize("num_pages", [MAX_PAGES + 1, 2**31 - 1, 2**62])
def test_a_pool_that_nobody_could_keep_books_of_is_refused(num_pages: int) -> None:
    with pytest.raises(WireError, match="are allowed"):
        check(
            WorkerReady(worker_id=WorkerId("w"), epoch=Epoch(1), num_pages=num_pages, layers=None)
        )
