"""Workers that live and do not work: hung, out of reach, or of a term that is still to come."""

import pytest

from common.ids import Epoch, PageId, RequestId, Term, WorkerId
from common.messages import (
    ForwardMicrobatch,
    PagesReserved,
    Registered,
    RegisterRefused,
    ReservePages,
    SampledTokens,
    StepFailed,
    WorkerJoined,
    WorkerLost,
)
from common.policy.patience import LEAST_HANG_S, UNKNOWN_HANG_S
from common.runtime.effects import Send, TimerFired
from tests.support.router import RouterBench, beat, heartbeat, hop, line, link_lost, register, sent

ATTENTION = WorkerId("attention-0")


@pytest.fixture
def bench() -> RouterBench:
    """Give a cluster of two ranges, each with a spare, and two attention workers."""
    bench = RouterBench(num_ranges=2)
    bench.join_all(layer_workers=4, attention_workers=2)
    return bench


def live(bench: RouterBench, until_s: int, **changes: object) -> None:
    """Let everybody's hearts beat; what one attention worker says of itself can be changed."""
    for now_s in range(int(bench.now) + 1, until_s + 1):
        bench.now = now_s
        for worker_id in list(bench.state.members.workers):
            mine = changes if worker_id == ATTENTION else {}
            bench.tell(heartbeat(worker_id, **mine))
        beat(bench, now_s)


def too_late(bench: RouterBench, microbatch: ForwardMicrobatch) -> ForwardMicrobatch | None:
    """Let a microbatch's deadline pass; gives the next that leaves, if one does."""
    effects = bench.tell(TimerFired(("deadline", microbatch.microbatch_id)))
    return next(iter(sent(effects, ForwardMicrobatch)), None)


def failed(bench: RouterBench, microbatch: ForwardMicrobatch) -> ForwardMicrobatch | None:
    """Let the first layer worker say that it cannot reach the attention worker."""
    effects = bench.tell(
        StepFailed(
            microbatch_id=microbatch.microbatch_id,
            worker_id=microbatch.route.layer_workers[0].worker_id,
            reason="no way to it",
            blames=ATTENTION,
        )
    )
    return next(iter(sent(effects, ForwardMicrobatch)), None)


# An engine that stands still


def test_a_busy_engine_that_ends_nothing_counts_as_hung(bench: RouterBench) -> None:
    live(bench, int(UNKNOWN_HANG_S), busy=True, progress=3)
    assert ATTENTION in bench.state.members.workers

    live(bench, int(UNKNOWN_HANG_S) + 2, busy=True, progress=3)

    assert ATTENTION not in bench.state.members.workers


def test_a_hung_worker_is_told_to_stop_since_its_engine_would_hang_on(bench: RouterBench) -> None:
    bench.state.scheduler.flights.passes.append((0.1, 1))
    live(bench, int(LEAST_HANG_S), busy=True, progress=3)
    bench.tell(heartbeat(ATTENTION, busy=True, progress=3))

    effects = beat(bench, LEAST_HANG_S + 1.5)

    refused = [each.to for each in effects if isinstance(each, Send) and _is_refusal(each)]
    assert refused == [hop(ATTENTION)]


def _is_refusal(effect: Send) -> bool:
    return isinstance(effect.message, RegisterRefused)


def test_slow_passes_make_the_router_patient_with_engines(bench: RouterBench) -> None:
    bench.state.scheduler.flights.passes.append((9.0, 1))

    live(bench, 179, busy=True, progress=3)
    assert ATTENTION in bench.state.members.workers

    live(bench, 182, busy=True, progress=3)
    assert ATTENTION not in bench.state.members.workers


@pytest.mark.parametrize("busy", [True, False])
def test_an_engine_that_ends_a_visit_or_rests_does_not_hang(bench: RouterBench, busy: bool) -> None:
    for progress in range(3):
        live(bench, (progress + 1) * 100, busy=busy, progress=progress)

    assert ATTENTION in bench.state.members.workers


def test_a_worker_that_still_loads_does_not_hang(bench: RouterBench) -> None:
    bench.tell(register("layer-9", "layer_worker"))
    for bench.now in range(1, 400):
        bench.tell(heartbeat("layer-9", busy=True))
        beat(bench, bench.now)

    assert WorkerId("layer-9") in bench.state.members.workers


# Links that lose


def test_a_link_that_fails_twice_costs_the_attention_worker_its_place(bench: RouterBench) -> None:
    again = failed(bench, bench.run(line(0)))
    assert again

    assert failed(bench, again) is None

    assert ATTENTION not in bench.state.members.workers


def test_a_homecoming_over_the_same_link_makes_up_for_a_failure(bench: RouterBench) -> None:
    again = failed(bench, bench.run(line(0)))
    assert again
    onward = sent(bench.come_home(again), ForwardMicrobatch)[0]

    assert failed(bench, onward)

    assert ATTENTION in bench.state.members.workers


def test_a_homecoming_over_another_link_does_not() -> None:
    bench = RouterBench(in_flight=2)
    bench.join_all(layer_workers=2)
    first, second = (bench.run(line(number)) for number in range(2))
    assert first.route.layer_workers != second.route.layer_workers
    failed(bench, first)
    bench.come_home(second)

    bench.tell(
        StepFailed(
            microbatch_id=next(
                flight.microbatch_id
                for flight in bench.state.scheduler.flights.live.values()
                if flight.route.layer_workers == first.route.layer_workers
            ),
            worker_id=first.route.layer_workers[0].worker_id,
            reason="no way to it",
            blames=ATTENTION,
        )
    )

    assert ATTENTION not in bench.state.members.workers


def test_whoever_is_waited_for_when_the_time_is_over_is_blamed(bench: RouterBench) -> None:
    microbatch = bench.run(line(0))
    waiting = microbatch.route.layer_workers[1].worker_id
    bench.tell(heartbeat(waiting, waiting_for=(ATTENTION,)))
    again = too_late(bench, microbatch)
    assert again

    assert too_late(bench, again) is None

    assert ATTENTION not in bench.state.members.workers


def test_a_microbatch_that_nobody_waits_for_was_lost_between_the_ranges(bench: RouterBench) -> None:
    microbatch = bench.run(line(0))

    again = too_late(bench, microbatch)

    assert again
    assert again.route.layer_workers[1] != microbatch.route.layer_workers[1]
    assert ATTENTION in bench.state.members.workers


# What the manager has not heard


def test_a_grant_from_a_lost_pool_tells_the_manager_of_the_loss_again(bench: RouterBench) -> None:
    asked = sent(bench.submit(line(0)), ReservePages)[0]
    bench.tell(link_lost(ATTENTION))
    late = PagesReserved(
        number=asked.number,
        request_id=RequestId(0),
        worker_id=ATTENTION,
        epoch=Epoch(1),
        new_pages=(PageId(0),),
        num_found=0,
    )

    effects = bench.tell(late)

    told = [type(each.message) for each in effects if isinstance(each, Send)]
    assert told == [WorkerLost, ReservePages]


def test_every_heartbeat_tells_the_manager_again_who_offers_pages(bench: RouterBench) -> None:
    for name in list(bench.state.members.workers):
        bench.tell(heartbeat(name))

    effects = beat(bench, 1.0)

    assert [each.worker_id for each in sent(effects, WorkerJoined)] == [ATTENTION, "attention-1"]


# A job store that was lost


def test_a_worker_of_a_later_term_is_refused_with_what_must_have_happened(
    bench: RouterBench,
) -> None:
    effects = bench.tell(register("attention-9", "attention_worker", term=Term(7)))

    (refusal,) = sent(effects, RegisterRefused)
    assert "in term 7, this router is in term 1: its job store was lost" in refusal.reason
    assert sent(effects, Registered) == []


def test_a_worker_of_an_earlier_term_may_join(bench: RouterBench) -> None:
    effects = bench.tell(register("attention-9", "attention_worker", term=Term(0)))

    assert len(sent(effects, Registered)) == 1


def test_a_homecoming_that_names_others_fails_the_microbatch(bench: RouterBench) -> None:
    microbatch = bench.run(line(0))

    effects = bench.come_home(microbatch, request_ids=microbatch.token_ids)

    assert sent(effects, SampledTokens) == []
    assert sent(effects, ForwardMicrobatch)
