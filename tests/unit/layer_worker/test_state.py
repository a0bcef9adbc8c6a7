"""The layer worker's decisions about itself: becoming a member, the order of work, the end."""

import pytest

from common.errors import ModelRefused
from common.messages import (
    Drain,
    Heartbeat,
    Register,
    SampledTokens,
    WorkerLost,
    WorkerReady,
)
from common.runtime.effects import (
    Run,
    Send,
    Stop,
    StopRequested,
    TimerFired,
    WorkFailed,
)
from common.runtime.loop import EXIT_BUG, EXIT_ERROR
from common.runtime.member import MemberTimer
from services.layer_worker.state import LayerWorkerState
from services.layer_worker.work import (
    Advance,
    Begin,
    LoadRange,
    RangeLoaded,
)
from tests.support.layer_worker import (
    ALONE,
    ENTRIES,
    FIRST,
    LAST,
    ME,
    RIGHT,
    WHOLE,
    answer,
    begun,
    chosen,
    scatter,
    sent,
    work_of,
)
from tests.support.step import (
    PATIENCE,
    ROUTER,
    attention_result,
    forward,
    layer_role,
    nothing_measured,
    register_of,
    registered,
)

# Becoming a member


def test_a_role_is_loaded_and_then_the_router_is_told(states):
    state = LayerWorkerState(register_of(ME, "layer_worker"), ROUTER, PATIENCE, nothing_measured)
    assert sent(state.start(0.0), Register) == [register_of(ME, "layer_worker")]

    loading = state.handle(registered(FIRST), 0.0)
    loaded = state.handle(RangeLoaded(role=FIRST), 1.0)

    assert work_of(loading) == LoadRange(role=FIRST)
    assert not sent(loading, WorkerReady)
    ready = WorkerReady(worker_id=ME.worker_id, epoch=ME.epoch, num_pages=0, layers=FIRST)
    assert loaded == [Send(ROUTER, ready)]


def test_the_same_role_again_loads_nothing_and_is_ready_at_once(state):
    effects = state.handle(registered(WHOLE), 1.0)

    assert work_of(effects) is None
    assert len(sent(effects, WorkerReady)) == 1


def test_registered_twice_while_loading_is_ready_once(states):
    state = LayerWorkerState(register_of(ME, "layer_worker"), ROUTER, PATIENCE, nothing_measured)
    state.start(0.0)
    state.handle(registered(FIRST), 0.0)

    again = state.handle(registered(FIRST), 0.5)
    loaded = state.handle(RangeLoaded(role=FIRST), 1.0)

    assert work_of(again) is None
    assert not sent(again, WorkerReady)
    assert len(sent(loaded, WorkerReady)) == 1


def test_a_role_that_changes_while_loading_is_loaded_after_it(states):
    state = LayerWorkerState(register_of(ME, "layer_worker"), ROUTER, PATIENCE, nothing_measured)
    state.start(0.0)
    state.handle(registered(FIRST), 0.0)

    changed = state.handle(registered(LAST), 0.5)
    loaded = state.handle(RangeLoaded(role=FIRST), 1.0)

    assert work_of(changed) is None
    assert not sent(loaded, WorkerReady)
    assert work_of(loaded) == LoadRange(role=LAST)


def test_another_role_drops_the_visits_and_loads_once_the_engine_is_free(state):
    state.handle(forward(1, ENTRIES, ALONE), 0.0)
    state.handle(forward(2, ENTRIES, ALONE), 0.0)

    changed = state.handle(registered(FIRST), 0.0)
    free = state.handle(begun(1), 0.0)

    assert work_of(changed) is None
    assert free == [Run(LoadRange(role=FIRST))]


@pytest.mark.parametrize(
    ("error", "exit_code"), [(ModelRefused("no such tensor"), EXIT_ERROR), (OSError(), EXIT_BUG)]
)
def test_weights_that_cannot_be_loaded_end_the_process(states, error, exit_code):
    state = LayerWorkerState(register_of(ME, "layer_worker"), ROUTER, PATIENCE, nothing_measured)
    state.start(0.0)
    loading = work_of(state.handle(registered(WHOLE), 0.0))

    effects = state.handle(WorkFailed(loading, error), 0.0)

    assert [each.exit_code for each in effects if isinstance(each, Stop)] == [exit_code]


# The order of work


def test_the_engine_has_one_piece_of_work_at_a_time(state):
    first = state.handle(forward(1, ENTRIES, ALONE), 0.0)
    second = state.handle(forward(2, ENTRIES, ALONE), 0.0)
    done = state.handle(begun(1), 0.0)

    assert work_of(first).microbatch_id == 1
    assert work_of(second) is None
    assert work_of(done).microbatch_id == 2


def test_the_deepest_microbatch_goes_first_then_the_oldest(state):
    state.handle(forward(1, ENTRIES, ALONE), 0.0)
    requests = scatter(state, 1)
    state.handle(forward(4, ENTRIES, ALONE), 0.0)
    state.handle(forward(3, ENTRIES, ALONE), 0.0)
    state.handle(forward(2, ENTRIES, ALONE), 0.0)
    answer(state, requests)

    order = []
    work = work_of(state.handle(begun(4), 0.0))
    while work:
        order.append((type(work), work.microbatch_id))
        work = work_of(state.handle(begun(work.microbatch_id), 0.0))

    assert order == [(Advance, 1), (Begin, 2), (Begin, 3)]


def test_a_device_that_copies_beside_computing_has_as_much_work_as_it_can_overlap(make):
    state = make(max_computing=2)

    given = [work_of(state.handle(forward(each, ENTRIES, ALONE), 0.0)) for each in (1, 2, 3)]
    done = work_of(state.handle(begun(1), 0.0))

    assert [work and work.microbatch_id for work in given] == [1, 2, None]
    assert done.microbatch_id == 3


def test_weights_are_loaded_only_when_a_device_has_nothing_left_to_do(make):
    state = make(max_computing=2)
    state.handle(forward(1, ENTRIES, ALONE), 0.0)
    state.handle(forward(2, ENTRIES, ALONE), 0.0)

    works = [work_of(state.handle(event, 0.0)) for event in (registered(FIRST), begun(2), begun(1))]

    assert works == [None, None, LoadRange(role=FIRST)]


# Heartbeats and the end


def test_a_heartbeat_names_the_workers_whose_results_are_missing(state):
    state.handle(forward(1, ENTRIES, ALONE), 0.0)
    left, _ = scatter(state, 1)
    state.handle(attention_result(left), 0.0)

    effects = state.handle(TimerFired(MemberTimer.TURN), 1.0)

    assert [each.waiting_for for each in sent(effects, Heartbeat)] == [(RIGHT.worker_id,)]


@pytest.mark.parametrize(
    "events", [[Drain(deadline_s=5.0)], [StopRequested(), Drain(deadline_s=5.0)]]
)
def test_a_worker_that_is_drained_finishes_its_visits_first(make, events):
    state = make(layer_role(0, 1, 1))
    state.handle(forward(1, ENTRIES, ALONE), 0.0)
    requests = scatter(state, 1)

    asked = [effect for event in events for effect in state.handle(event, 0.0)]
    answer(state, requests)
    home = state.handle(chosen(1), 0.0)

    assert not any(isinstance(each, Stop) for each in asked)
    assert len(sent(home, SampledTokens)) == len(sent(home, WorkerLost)) == 1
    assert [each.exit_code for each in home if isinstance(each, Stop)] == [0]
