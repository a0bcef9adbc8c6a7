"""Shards that are only written hold nobody up, but nobody leaves before they are."""

import numpy as np
import pytest

from common.errors import WireError
from common.ids import MicrobatchId
from common.messages import AttentionRequest, Route, SampledTokens, Tensor, WriteRequest, Written
from common.messages.checks import check
from common.messages.entries import LOCAL, SAMPLE
from services.layer_worker.visit import MAX_UNWRITTEN
from services.layer_worker.work import Advance, End, LayerBegun
from tests.support.layer_worker import (
    LEFT,
    ME,
    NUM_LAYERS,
    RIGHT,
    answer,
    chosen,
    sent,
    work_of,
)
from tests.support.step import forward, layer_role, shards_of

WRITTEN = [(11, 0, 3, 1, 3, LOCAL | SAMPLE)]
"""Three rows on the left, with nothing before them."""
MIXED = [(12, 4, 1, 1, 3, SAMPLE), (13, 0, 2, 1, 2, LOCAL)]
"""On the right a row that attends, then two that are written."""


def begun(num_rows, num_written):
    qkv = np.arange(num_rows * 4, dtype=np.float32).reshape(num_rows, 4)
    kv = np.arange(num_written * 2, dtype=np.float32).reshape(num_written, 2)
    return LayerBegun(
        microbatch_id=MicrobatchId(1),
        carry="carry",
        qkv=Tensor.of(qkv),
        written_kv=Tensor.of(kv),
        engine_s=0.0,
    )


def written(request):
    return Written(microbatch_id=request.microbatch_id, layer=request.layer, shard=request.shard)


@pytest.fixture
def only_written(state):
    """A worker with one microbatch in which nothing attends on tier 2."""
    route = Route(layer_workers=(ME,), shards=shards_of(WRITTEN, [(LEFT, 1)]))
    state.handle(forward(1, WRITTEN, route), 0.0)
    return state


def test_a_shard_of_both_kinds_gets_two_messages(state):
    entries = [*WRITTEN, *MIXED]
    shards = shards_of(entries, [(LEFT, 1), (RIGHT, 2)])
    state.handle(forward(1, entries, Route(layer_workers=(ME,), shards=shards)), 0.0)

    effects = state.handle(begun(6, 5), 0.0)

    (attend,), (left, right) = sent(effects, AttentionRequest), sent(effects, WriteRequest)
    assert [effect.to for effect in effects] == [RIGHT, LEFT, RIGHT]
    assert attend.qkv.numpy()[:, 0].tolist() == [12]
    assert left.kv.numpy()[:, 0].tolist() == [0, 2, 4]
    assert right.kv.numpy()[:, 0].tolist() == [6, 8]
    assert right.entries.numpy().tolist() == [list(MIXED[1])]
    assert right.page_table.numpy().tolist() == [2]
    for message in (attend, left, right):
        check(message)


def test_a_mixed_microbatch_goes_on_when_its_attention_is_back(state):
    shards = shards_of(MIXED, [(RIGHT, 2)])
    state.handle(forward(1, MIXED, Route(layer_workers=(ME,), shards=shards)), 0.0)

    effects = state.handle(begun(3, 2), 0.0)

    assert work_of(effects) is None
    assert isinstance(answer(state, sent(effects, AttentionRequest)), Advance)


def test_a_microbatch_that_is_only_written_goes_on_at_once(only_written):
    effects = only_written.handle(begun(3, 3), 0.0)

    assert len(sent(effects, WriteRequest)) == 1
    assert isinstance(work_of(effects), Advance)


def test_it_does_not_go_home_before_every_layer_is_written(only_written):
    requests = []
    for _ in range(NUM_LAYERS):
        effects = only_written.handle(begun(3, 3), 0.0)
        requests += sent(effects, WriteRequest)
    assert isinstance(work_of(effects), End)

    early = only_written.handle(chosen(1), 0.0)
    effects = [only_written.handle(written(request), 0.0) for request in requests]

    assert [request.layer for request in requests] == list(range(NUM_LAYERS))
    assert not sent(early, SampledTokens)
    assert [len(sent(each, SampledTokens)) for each in effects] == [0, 0, 0, 1]
    only_written.check()


def test_it_goes_home_at_once_if_all_is_written_by_then(only_written):
    for _ in range(NUM_LAYERS):
        [request] = sent(only_written.handle(begun(3, 3), 0.0), WriteRequest)
        only_written.handle(written(request), 0.0)

    effects = only_written.handle(chosen(1), 0.0)

    assert len(sent(effects, SampledTokens)) == 1


def test_an_answer_that_was_doubled_is_dropped(only_written):
    [request] = sent(only_written.handle(begun(3, 3), 0.0), WriteRequest)
    only_written.handle(written(request), 0.0)

    again = only_written.handle(written(request), 0.0)

    assert not [effect for effect in again if work_of([effect])]
    only_written.check()


def test_only_so_many_layers_are_ahead_of_their_writes(make):
    state = make(layer_role(0, MAX_UNWRITTEN + 3, MAX_UNWRITTEN + 3))
    route = Route(layer_workers=(ME,), shards=shards_of(WRITTEN, [(LEFT, 1)]))
    state.handle(forward(1, WRITTEN, route), 0.0)
    ahead = [state.handle(begun(3, 3), 0.0) for _ in range(MAX_UNWRITTEN + 1)]
    assert [work_of(effects) is None for effects in ahead] == [False] * MAX_UNWRITTEN + [True]
    [first] = sent(ahead[0], WriteRequest)

    effects = state.handle(written(first), 0.0)

    assert isinstance(work_of(effects), Advance)


def test_the_wire_refuses_an_entry_that_attends_after_one_that_is_written():
    entries = [WRITTEN[0], MIXED[0]]
    route = Route(layer_workers=(ME,), shards=shards_of(entries, [(LEFT, 2)]))

    with pytest.raises(WireError, match="after one that is only written"):
        check(forward(1, entries, route))
