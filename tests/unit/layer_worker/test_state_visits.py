"""The layer worker's decisions about a microbatch: its way, and what goes wrong on it."""

from dataclasses import replace

import numpy as np
import pytest

from common.errors import WireError
from common.ids import Endpoint, Epoch, MicrobatchId, Term
from common.messages import (
    AttentionRequest,
    Register,
    Route,
    RouterHeartbeat,
    SampledTokens,
    Tensor,
)
from common.runtime.effects import (
    LinkLost,
    Note,
    Run,
    TermRaised,
    WorkFailed,
)
from services.layer_worker.state import LayerWorkerState
from services.layer_worker.work import (
    Advance,
    Attended,
    Begin,
    End,
)
from tests.support.layer_worker import (
    ALONE,
    BOTH,
    ENTRIES,
    FIRST,
    LAST,
    LEFT,
    ME,
    NEXT,
    NUM_LAYERS,
    RIGHT,
    WHOLE,
    answer,
    begun,
    chosen,
    ended,
    failures,
    scatter,
    sent,
    work_of,
)
from tests.support.step import (
    NO_TIMES,
    PATIENCE,
    ROUTER,
    attention_result,
    forward,
    hidden,
    hop,
    int32,
    layer_role,
    nothing_measured,
    register_of,
    registered,
    shards_of,
)

# The way of a microbatch


def test_a_microbatch_begins_with_its_token_ids(state):
    step = forward(1, ENTRIES, ALONE)

    effects = state.handle(step, 0.0)

    assert effects == [
        Run(
            Begin(
                microbatch_id=step.microbatch_id,
                layer=0,
                entries=step.entries,
                arrived=step.token_ids,
            )
        )
    ]


def test_a_later_range_begins_with_the_hidden_rows(make):
    state = make(LAST)
    step = hidden(forward(1, ENTRIES, BOTH), 1, Tensor.of(np.ones((7, 2), np.float32)))

    work = work_of(state.handle(step, 0.0))

    assert isinstance(work, Begin)
    assert (work.layer, work.arrived) == (2, step.hidden)


def test_each_shard_gets_its_own_rows_entries_and_pages(state):
    step = forward(1, ENTRIES, ALONE, oldest_live=1, page_table=[7, 20, 21, 30, 31, 32])
    state.handle(step, 0.0)

    effects = state.handle(begun(1), 0.0)

    assert [effect.to for effect in effects] == [LEFT, RIGHT]
    left, right = sent(effects, AttentionRequest)
    assert (left.shard, right.shard) == (0, 1)
    assert {(each.layer, each.oldest_live, each.reply_to) for each in (left, right)} == {(0, 1, ME)}
    assert left.entries.numpy().tolist() == [list(ENTRIES[0])]
    assert right.entries.numpy().tolist() == [list(each) for each in ENTRIES[1:]]
    assert left.page_table.numpy().tolist() == [7]
    assert right.page_table.numpy().tolist() == [20, 21, 30, 31, 32]
    assert left.qkv.numpy()[:, 0].tolist() == [0]
    assert right.qkv.numpy()[:, 0].tolist() == [4, 8, 12, 16, 20, 24]


def test_the_next_layer_waits_for_the_last_shard_and_joins_them_in_order(state):
    state.handle(forward(1, ENTRIES, ALONE), 0.0)
    left, right = scatter(state, 1)
    results = [attention_result(request) for request in (left, right)]

    early = state.handle(results[1], 0.0)
    last = state.handle(results[0], 0.0)

    assert early == []
    assert work_of(last) == Advance(
        microbatch_id=MicrobatchId(1),
        layer=0,
        carry="carry of 1",
        attention=tuple(Attended(output=each.output, log_sums=None) for each in results),
    )


def test_the_last_layer_of_the_last_range_samples_and_goes_home(state):
    step = forward(1, ENTRIES, ALONE)
    state.handle(step, 0.0)
    works = [answer(state, scatter(state, 1)) for _ in range(NUM_LAYERS)]

    home = state.handle(chosen(1), 0.0)

    assert [type(work) for work in works] == [Advance, Advance, Advance, End]
    assert [work.layer for work in works] == [0, 1, 2, 3]
    assert works[-1].sampling == step.sampling
    assert [effect.to for effect in home] == [ROUTER]
    (message,) = sent(home, SampledTokens)
    assert message.request_ids.numpy().tolist() == [11, 12, 13]
    assert message.tokens.numpy().tolist() == [5, 6]


def test_the_last_layer_of_another_range_goes_on_to_the_next(make):
    state = make(FIRST)
    step = forward(1, ENTRIES, BOTH, oldest_live=1)
    state.handle(step, 0.0)
    works = [answer(state, scatter(state, 1)) for _ in range(2)]

    effects = state.handle(ended(1), 0.0)

    assert works[-1].sampling is None
    (effect,) = effects
    assert effect.to == NEXT
    assert effect.message == replace(
        hidden(step, 1, effect.message.hidden), oldest_live=MicrobatchId(1)
    )


def test_the_times_of_all_layers_and_ranges_add_up(make):
    state = make(layer_role(3, 4, NUM_LAYERS))
    step = hidden(forward(1, ENTRIES, BOTH), 1, Tensor.of(np.ones((7, 2), np.float32)))
    times = replace(
        NO_TIMES, tier1_s=100.0, tier2_s=200.0, wait_s=300.0, queue_s=400.0, attention_s=500.0
    )
    other = forward(9, ENTRIES, BOTH)
    state.handle(replace(hidden(other, 1, step.hidden), microbatch_id=MicrobatchId(9)), 0.0)
    state.handle(replace(step, times=times), 1.0)  # waits while 9 computes
    state.handle(begun(9), 4.0)  # 3 s in the queue
    left, right = sent(state.handle(begun(1, engine_s=2.0), 6.0), AttentionRequest)
    state.handle(attention_result(left, engine_s=1.5), 8.0)
    state.handle(attention_result(right, engine_s=0.5, queue_s=3.0), 11.0)  # 5 s out

    (message,) = sent(state.handle(chosen(1, engine_s=4.0), 20.0), SampledTokens)

    assert message.times == replace(
        times,
        tier1_s=106.0,
        tier2_s=200.5,
        wait_s=305.0,
        queue_s=403.0,
        attention_s=502.0,
        attention_queue_s=3.0,
    )


# What comes late, twice or wrong


@pytest.mark.parametrize(
    "change",
    [
        {"microbatch_id": MicrobatchId(2)},
        {"layer": 1},
        {"shard": 2},
        {"output": Tensor.of(np.zeros((2, 2), np.float32))},
    ],
)
def test_a_result_that_nobody_waits_for_is_dropped(state, change):
    state.handle(forward(1, ENTRIES, ALONE), 0.0)
    left, right = scatter(state, 1)
    state.handle(attention_result(right), 0.0)

    effects = state.handle(replace(attention_result(left), **change), 0.0)

    assert [type(effect) for effect in effects] == [Note]
    assert work_of(state.handle(attention_result(left), 0.0)) is not None


def test_a_result_that_comes_twice_counts_once(state):
    state.handle(forward(1, ENTRIES, ALONE), 0.0)
    left, _ = scatter(state, 1)
    state.handle(attention_result(left), 0.0)

    effects = state.handle(attention_result(left), 0.0)

    assert [type(effect) for effect in effects] == [Note]


def test_a_result_for_a_visit_that_computes_again_is_dropped(state):
    state.handle(forward(1, ENTRIES, ALONE), 0.0)
    requests = scatter(state, 1)
    answer(state, requests)

    effects = state.handle(attention_result(requests[0]), 0.0)

    assert [type(effect) for effect in effects] == [Note]


def test_a_microbatch_that_comes_twice_is_taken_once(state):
    state.handle(forward(1, ENTRIES, ALONE), 0.0)

    effects = state.handle(forward(1, ENTRIES, ALONE), 0.0)

    assert [type(effect) for effect in effects] == [Note]


def test_a_microbatch_that_has_ended_is_not_taken(state):
    state.handle(RouterHeartbeat(oldest_live=MicrobatchId(5)), 0.0)

    effects = state.handle(forward(4, ENTRIES, ALONE), 0.0)

    assert [type(effect) for effect in effects] == [Note]


@pytest.mark.parametrize("by_heartbeat", [True, False])
def test_what_is_older_than_the_oldest_live_microbatch_is_dropped(state, by_heartbeat):
    for microbatch_id in (1, 2, 3):
        state.handle(forward(microbatch_id, ENTRIES, ALONE), 0.0)
    requests = scatter(state, 1)  # 1 is out, 2 computes, 3 is ready

    if by_heartbeat:
        state.handle(RouterHeartbeat(oldest_live=MicrobatchId(4)), 0.0)
    else:
        state.handle(forward(4, ENTRIES, ALONE, oldest_live=4), 0.0)
    computed = state.handle(begun(2), 0.0)

    assert not sent(computed, AttentionRequest)
    assert getattr(work_of(computed), "microbatch_id", 4) == 4
    assert [type(each) for each in state.handle(attention_result(requests[0]), 0.0)] == [Note]


def test_a_raised_term_drops_all_visits_and_registers_again(state):
    for microbatch_id in (1, 2, 3):
        state.handle(forward(microbatch_id, ENTRIES, ALONE), 0.0)
    scatter(state, 1)

    effects = state.handle(TermRaised(Term(2)), 0.0)
    computed = state.handle(begun(2), 0.0)

    assert len(sent(effects, Register)) == 1
    assert not failures(effects)
    assert computed == []


def test_a_microbatch_before_the_weights_is_refused(states):
    state = LayerWorkerState(register_of(ME, "layer_worker"), ROUTER, PATIENCE, nothing_measured)
    state.start(0.0)
    state.handle(registered(WHOLE), 0.0)

    effects = state.handle(forward(1, ENTRIES, ALONE), 0.0)

    assert failures(effects) == [(1, "its layers are not loaded yet")]


@pytest.mark.parametrize(
    ("role", "step"),
    [
        (FIRST, forward(1, ENTRIES, ALONE)),
        (LAST, forward(1, ENTRIES, ALONE)),
        (WHOLE, forward(1, ENTRIES, BOTH)),
        (FIRST, hidden(forward(1, ENTRIES, BOTH), 1, int32([[0]]))),
        (LAST, hidden(forward(1, ENTRIES, BOTH), 0, int32([[0]]))),
        (layer_role(1, 2, NUM_LAYERS), hidden(forward(1, ENTRIES, BOTH), 2, int32([[0]]))),
    ],
)
def test_a_microbatch_at_the_wrong_place_of_its_route_is_refused(make, role, step):
    state = make(role)

    effects = state.handle(step, 0.0)

    assert [microbatch_id for microbatch_id, _ in failures(effects)] == [1]
    assert work_of(effects) is None


# What fails


@pytest.mark.parametrize("error", [WireError("rows are missing"), ValueError("a bug")])
def test_work_that_fails_fails_its_microbatch_alone(state, error):
    state.handle(forward(2, ENTRIES, ALONE), 0.0)
    work = work_of(state.handle(forward(1, ENTRIES, ALONE), 0.0)) or work_of(
        state.handle(begun(2), 0.0)
    )

    effects = state.handle(WorkFailed(work, error), 0.0)

    assert [microbatch_id for microbatch_id, _ in failures(effects)] == [1]
    assert any(isinstance(each, Note) for each in effects) == isinstance(error, ValueError)


def test_work_that_fails_for_a_dropped_microbatch_is_nobodys_business(state):
    work = work_of(state.handle(forward(1, ENTRIES, ALONE), 0.0))
    state.handle(TermRaised(Term(2)), 0.0)

    effects = state.handle(WorkFailed(work, WireError("rows are missing")), 0.0)

    assert effects == []


@pytest.mark.parametrize("peer", [RIGHT, NEXT], ids=["attention worker", "next range"])
def test_a_lost_link_fails_the_visits_that_need_it(make, peer):
    state = make(FIRST)
    elsewhere = Route(layer_workers=(ME, hop("layers-9")), shards=shards_of(ENTRIES, [(LEFT, 3)]))
    state.handle(forward(1, ENTRIES, BOTH), 0.0)
    state.handle(forward(2, ENTRIES, BOTH), 0.0)
    state.handle(forward(3, ENTRIES, elsewhere), 0.0)
    state.handle(forward(4, ENTRIES, BOTH), 0.0)
    scatter(state, 1)  # 1 is out, 2 computes, 3 and 4 are ready

    effects = state.handle(LinkLost(peer.endpoint, peer.epoch), 0.0)
    computed = state.handle(begun(2), 0.0)

    assert [microbatch_id for microbatch_id, _ in failures(effects)] == [1, 2, 4]
    assert work_of(computed).microbatch_id == 3
    assert not sent(computed, AttentionRequest)


def test_a_lost_link_to_somebody_else_fails_nothing(state):
    state.handle(forward(1, ENTRIES, ALONE), 0.0)

    effects = state.handle(LinkLost(Endpoint("ipc:///elsewhere"), RIGHT.epoch), 0.0)

    assert effects == []


def test_a_lost_link_to_an_earlier_life_of_a_peer_fails_nothing(make):
    state = make(FIRST)
    state.handle(forward(1, ENTRIES, BOTH), 0.0)

    effects = state.handle(LinkLost(RIGHT.endpoint, Epoch(RIGHT.epoch + 1)), 0.0)

    assert effects == []
