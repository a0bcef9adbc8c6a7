"""The attention worker's decisions: messages, results and events in, effects out."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from common.errors import PageFault, PoolTooLarge
from common.ids import MicrobatchId, Term
from common.messages import (
    AttentionRequest,
    AttentionResult,
    AttentionRole,
    Drain,
    Register,
    RouterHeartbeat,
    StepFailed,
    Tensor,
    WorkerLost,
    WorkerReady,
)
from common.runtime.effects import Note, Run, Send, Stop, StopRequested, TermRaised, WorkFailed
from common.runtime.loop import EXIT_BUG, EXIT_ERROR
from services.attention_worker.state import AttentionWorkerState
from services.attention_worker.work import AllocatePool, Attend, Attended, PoolAllocated
from tests.support.step import (
    PAGE_SIZE,
    PATIENCE,
    ROUTER,
    attention_request,
    entry,
    hop,
    nothing_measured,
    register_of,
    registered,
)

ME, ASKER = hop("attention-0"), hop("layers-0")
ROLE = AttentionRole(
    num_layers=4,
    num_heads=2,
    num_kv_heads=1,
    head_size=1,
    sliding_windows=(None,) * 4,
    page_size=PAGE_SIZE,
    kv_dtype="fp32",
    useful_pages=100,
)
NUM_PAGES = 10


@pytest.fixture
def new_state() -> AttentionWorkerState:
    """Make a worker that was given its role, and has no pool yet."""
    state = AttentionWorkerState(
        register_of(ME, "attention_worker"), ROUTER, PATIENCE, nothing_measured
    )
    state.start(0.0)
    state.handle(registered(ROLE), 0.0)
    return state


@pytest.fixture
def state(new_state) -> AttentionWorkerState:
    new_state.handle(PoolAllocated(role=ROLE, num_pages=NUM_PAGES), 0.0)
    return new_state


def ask(microbatch_id: int, page: int = 0, *, layer: int = 0, **fields: Any) -> AttentionRequest:
    """Write one token to the beginning of a page."""
    return attention_request(microbatch_id, [entry(1)], [page], layer=layer, **fields)


def attended(request: AttentionRequest) -> Attended:
    output = Tensor.of(np.ones((request.qkv.shape[0], 2), np.float32))
    return Attended(request=request, output=output, log_sums=None, engine_s=0.25)


def work_of(effects: list[Any]) -> Any:
    works = [effect.work for effect in effects if isinstance(effect, Run)]
    assert len(works) <= 1
    return works[0] if works else None


def sent(effects: list[Any], kind: type) -> list[Any]:
    return [
        effect.message
        for effect in effects
        if isinstance(effect, Send) and isinstance(effect.message, kind)
    ]


def reasons(effects: list[Any]) -> list[str]:
    return [
        effect.message.reason
        for effect in effects
        if isinstance(effect, Send)
        and effect.to == ROUTER
        and isinstance(effect.message, StepFailed)
    ]


def dropped(effects: list[Any]) -> list[str]:
    return [effect.fields["reason"] for effect in effects if isinstance(effect, Note)]


# Work that the loop may do itself


@pytest.fixture
def hasty(state) -> AttentionWorkerState:
    """Have it know that a token takes a quarter of a second, which counts as brief."""
    state._max_brief_s = 0.25
    request = ask(1)
    state.handle(request, 0.0)
    state.handle(attended(request), 0.0)
    return state


def briefs(effects: list[Any]) -> list[bool]:
    return [effect.brief for effect in effects if isinstance(effect, Run)]


def test_a_short_shard_is_left_to_the_loop_when_nothing_else_is_here(hasty):
    effects = hasty.handle(ask(1, layer=1), 1.0)

    assert briefs(effects) == [True]


def test_a_short_shard_is_the_engines_while_another_microbatch_is_live(hasty):
    effects = hasty.handle(ask(2, page=1), 1.0)

    assert briefs(effects) == [False]


def test_a_shard_that_will_take_longer_is_the_engines(hasty):
    longer = attention_request(2, [entry(1), entry(2)], [0, 1], oldest_live=2)

    effects = hasty.handle(longer, 1.0)

    assert briefs(effects) == [False]


def test_rows_of_a_prompt_are_the_engines(hasty):
    prompt = attention_request(2, [entry(1, num_rows=2)], [0], oldest_live=2)

    effects = hasty.handle(prompt, 1.0)

    assert briefs(effects) == [False]


# Becoming a member


def test_a_role_gets_its_pool_and_then_the_router_is_told_how_large_it_is():
    state = AttentionWorkerState(
        register_of(ME, "attention_worker"), ROUTER, PATIENCE, nothing_measured
    )
    state.start(0.0)

    told = state.handle(registered(ROLE), 0.0)
    allocated = state.handle(PoolAllocated(role=ROLE, num_pages=NUM_PAGES), 1.0)

    assert work_of(told) == AllocatePool(role=ROLE)
    assert not sent(told, WorkerReady)
    assert [each.num_pages for each in sent(allocated, WorkerReady)] == [NUM_PAGES]


def test_the_same_role_again_keeps_the_pool_and_its_fence(state):
    state.handle(ask(5), 0.0)
    state.handle(attended(ask(5)), 0.0)
    state.handle(TermRaised(Term(2)), 0.0)

    again = state.handle(registered(ROLE), 1.0)

    assert work_of(again) is None
    assert [each.num_pages for each in sent(again, WorkerReady)] == [NUM_PAGES]
    assert dropped(state.handle(ask(4), 1.0)) == ["a later microbatch wrote to its pages"]


def test_another_role_gets_another_pool_once_the_engine_is_free(state):
    other = replace(ROLE, num_layers=8, sliding_windows=(None,) * 8)
    state.handle(ask(5), 0.0)
    state.handle(ask(6, page=1), 0.0)

    told = state.handle(registered(other), 1.0)
    free = state.handle(attended(ask(5)), 1.0)
    early = state.handle(ask(7), 1.0)
    allocated = state.handle(PoolAllocated(role=other, num_pages=3), 2.0)

    assert not sent(told, WorkerReady)
    assert work_of(free) == AllocatePool(role=other)
    assert reasons(early) == ["its page pool is not allocated yet"]
    assert [each.num_pages for each in sent(allocated, WorkerReady)] == [3]
    assert work_of(state.handle(ask(1), 2.0)) is not None


@pytest.mark.parametrize(
    ("error", "exit_code"), [(PoolTooLarge("too large"), EXIT_ERROR), (ValueError(), EXIT_BUG)]
)
def test_a_pool_that_cannot_be_had_ends_the_process(new_state, error, exit_code):
    effects = new_state.handle(WorkFailed(AllocatePool(role=ROLE), error), 0.0)

    assert [each.exit_code for each in effects if isinstance(each, Stop)] == [exit_code]


# The way of a shard


def test_a_shard_is_computed_and_answered(state):
    request = ask(1, layer=2, reply_to=ASKER)

    asked = state.handle(request, 0.0)
    answered = state.handle(attended(request), 0.0)

    assert work_of(asked) == Attend(request=request)
    assert answered == [
        Send(
            ASKER,
            AttentionResult(
                log_sums=None,
                microbatch_id=MicrobatchId(1),
                layer=2,
                shard=0,
                output=answered[0].message.output,
                engine_s=0.25,
                queue_s=0.0,
            ),
        )
    ]


def test_the_deepest_layer_goes_first_then_the_oldest_microbatch(state):
    state.handle(ask(1, page=1), 0.0)
    for microbatch_id, layer in ((5, 0), (4, 2), (3, 2), (2, 1)):
        state.handle(ask(microbatch_id, page=microbatch_id, layer=layer), 0.0)

    order = []
    work = work_of(state.handle(attended(ask(1)), 0.0))
    while work:
        order.append(work.request.microbatch_id)
        work = work_of(state.handle(attended(work.request), 0.0))

    assert order == [3, 4, 2, 5]


# The fence


def test_a_late_writer_is_kept_out_whole(state):
    state.handle(attention_request(7, [entry(1)], [3]), 0.0)
    state.handle(attended(ask(7)), 0.0)

    late = state.handle(attention_request(6, [entry(1), entry(2)], [2, 3]), 0.0)
    fine = state.handle(attention_request(6, [entry(1)], [2]), 0.0)

    assert dropped(late) == ["a later microbatch wrote to its pages"]
    assert work_of(late) is None
    assert work_of(fine) is not None


def test_a_writer_that_was_overtaken_while_it_waited_is_kept_out(state):
    state.handle(ask(1, page=1), 0.0)
    state.handle(ask(2, page=3, layer=0), 0.0)
    state.handle(ask(4, page=3, layer=1), 0.0)

    deeper = state.handle(attended(ask(1)), 0.0)
    overtaken = state.handle(attended(ask(4)), 0.0)

    assert work_of(deeper).request.microbatch_id == 4
    assert dropped(overtaken) == ["a later microbatch wrote to its pages"]
    assert work_of(overtaken) is None


def test_the_same_microbatch_writes_its_pages_in_every_layer(state):
    works = []
    for layer in range(ROLE.num_layers):
        works.append(work_of(state.handle(ask(3, layer=layer), 0.0)))
        state.handle(attended(ask(3, layer=layer)), 0.0)

    assert None not in works


def test_pages_that_are_only_read_may_have_later_writers(state):
    state.handle(ask(7, page=2), 0.0)
    state.handle(attended(ask(7)), 0.0)

    reader = attention_request(6, [entry(1, start=PAGE_SIZE)], [2, 4])
    effects = state.handle(reader, 0.0)

    assert work_of(effects) == Attend(request=reader)


@pytest.mark.parametrize(
    ("entries", "page_table", "reason"),
    [
        ([entry(1)], [NUM_PAGES], "pages from 10 to 10 were named, the pool has 10"),
        ([entry(1)], [-1], "pages from -1 to -1 were named, the pool has 10"),
        (
            [entry(1, start=PAGE_SIZE, num_pages=1)],
            [0],
            "an entry's positions lie outside its pages",
        ),
    ],
)
def test_a_page_or_position_out_of_bounds_fails_the_microbatch(state, entries, page_table, reason):
    effects = state.handle(attention_request(1, entries, page_table), 0.0)

    assert reasons(effects) == [reason]
    assert work_of(effects) is None


# What comes late, and what fails


def test_a_shard_of_a_microbatch_that_has_ended_is_dropped(state):
    state.handle(RouterHeartbeat(oldest_live=MicrobatchId(5)), 0.0)

    effects = state.handle(ask(4), 0.0)

    assert dropped(effects) == ["it has ended"]


def test_what_is_older_than_the_oldest_live_microbatch_is_not_computed(state):
    state.handle(ask(1, page=1), 0.0)
    state.handle(ask(2, page=2), 0.0)
    state.handle(ask(3, page=3, oldest_live=3), 0.0)

    computed = state.handle(attended(ask(1)), 0.0)

    assert not sent(computed, AttentionResult)
    assert work_of(computed).request.microbatch_id == 3


def test_a_raised_term_drops_what_waits_and_registers_again(state):
    state.handle(ask(1, page=1), 0.0)
    state.handle(ask(2, page=2), 0.0)

    raised = state.handle(TermRaised(Term(2)), 0.0)
    computed = state.handle(attended(ask(1)), 0.0)

    assert len(sent(raised, Register)) == 1
    assert work_of(computed) is None


@pytest.mark.parametrize("error", [PageFault("out of bounds"), ValueError("a bug")])
def test_work_that_fails_fails_its_microbatch_and_the_next_goes_on(state, error):
    work = work_of(state.handle(ask(1, page=1), 0.0))
    state.handle(ask(2, page=2), 0.0)

    effects = state.handle(WorkFailed(work, error), 0.0)

    assert len(reasons(effects)) == 1
    assert any(isinstance(each, Note) for each in effects) == isinstance(error, ValueError)
    assert work_of(effects).request.microbatch_id == 2


def test_a_worker_that_is_to_end_serves_until_it_is_drained(state):
    state.handle(StopRequested(), 0.0)

    served = state.handle(ask(1), 0.0)
    answered = state.handle(attended(ask(1)), 0.0)
    drained = state.handle(Drain(deadline_s=5.0), 0.0)

    assert work_of(served).request.microbatch_id == 1
    assert len(sent(answered, AttentionResult)) == 1
    assert not any(isinstance(each, Stop) for each in answered)
    assert [each.exit_code for each in drained if isinstance(each, Stop)] == [0]


def test_a_worker_that_is_drained_answers_first(state):
    state.handle(ask(1), 0.0)

    asked = state.handle(Drain(deadline_s=5.0), 0.0)
    answered = state.handle(attended(ask(1)), 0.0)

    assert not any(isinstance(each, Stop) for each in asked)
    assert len(sent(answered, AttentionResult)) == len(sent(answered, WorkerLost)) == 1
    assert [each.exit_code for each in answered if isinstance(each, Stop)] == [0]
