"""Workers that are drained: nothing new, then what lives there ends or moves, then they may go."""

import pytest

from common.ids import Epoch, WorkerId
from common.messages import (
    Drain,
    ForwardMicrobatch,
    ReleasePages,
    ReservePages,
    SpeedsMeasured,
    WorkerJoined,
    WorkerLeaving,
    WorkerLost,
)
from common.runtime.effects import Note, Send, SetTimer, TimerFired
from services.router.drains import DrainWorker
from tests.support.router import (
    RouterBench,
    drain_wanted,
    heartbeat,
    hop,
    line,
    of_kind,
    sent,
    stop_after,
)

LEAVING = WorkerId("attention-0")
LAST = WorkerId("layer-0")


@pytest.fixture
def bench() -> RouterBench:
    bench = RouterBench()
    bench.join_all(attention_workers=2)
    return bench


def drain(bench: RouterBench, worker_id: WorkerId = LEAVING) -> list[object]:
    return bench.tell(DrainWorker(worker_id=worker_id, deadline_s=60.0))


def told_to_go(effects: list[object]) -> list[WorkerId]:
    return [
        each.to.worker_id
        for each in effects
        if isinstance(each, Send) and isinstance(each.message, Drain)
    ]


def test_nobody_moves_to_a_worker_that_leaves(bench: RouterBench) -> None:
    effects = drain(bench)

    assert sent(effects, WorkerLeaving) == [WorkerLeaving(worker_id=LEAVING, epoch=Epoch(1))]
    bench.now = 1.0
    beat = bench.tell(TimerFired("heartbeat"))
    assert [each.worker_id for each in sent(beat, WorkerJoined)] == ["attention-1"]
    assert sent(beat, WorkerLeaving) == sent(effects, WorkerLeaving)


def test_a_worker_without_requests_may_go_at_once(bench: RouterBench) -> None:
    assert told_to_go(drain(bench)) == [LEAVING]


def test_a_worker_goes_when_its_last_request_has_ended(bench: RouterBench) -> None:
    microbatch = bench.run(line(0, stop=stop_after(1)))

    at_once = drain(bench)
    at_the_end = bench.come_home(microbatch)

    assert told_to_go(at_once) == []
    assert told_to_go(at_the_end) == [LEAVING]


def test_after_the_deadline_requests_are_computed_elsewhere(bench: RouterBench) -> None:
    microbatch = bench.run(line(0, stop=stop_after(9)))
    (timer,) = of_kind(drain(bench), SetTimer)
    bench.now = timer.at_s

    late = bench.tell(TimerFired(timer.key))
    home = bench.come_home(microbatch)

    assert timer.at_s == 60.0
    assert sent(late, ReleasePages) == []
    assert told_to_go(home) == [LEAVING]
    assert [each.request_id for each in sent(home, ReleasePages)] == [0]
    (again,) = sent(home, ReservePages)
    (microbatch,) = sent(bench.grant([Send(hop("kv"), again)], "attention-1"), ForwardMicrobatch)
    assert microbatch.token_ids.numpy().tolist() == [1, 2, 3, 7]
    totals = bench.state.scheduler.tenancy.totals
    assert (totals.preemptions, totals.recomputed_tokens) == (0, {"drained": 3})


def test_a_drained_workers_end_loses_nothing(bench: RouterBench) -> None:
    drain(bench)

    effects = bench.tell(WorkerLost(worker_id=LEAVING, epoch=Epoch(1)))

    assert LEAVING not in bench.state.members.workers
    assert told_to_go(effects) == []


def test_the_word_to_go_is_repeated(bench: RouterBench) -> None:
    drain(bench)
    bench.now = 1.0

    assert told_to_go(bench.tell(TimerFired("heartbeat"))) == [LEAVING]


def test_a_layer_worker_goes_when_no_microbatch_leads_through_it(bench: RouterBench) -> None:
    microbatch = bench.run(line(0, stop=stop_after(9)))
    bench.join("layer-1", "layer_worker")

    at_once = drain(bench, LAST)
    effects = bench.come_home(microbatch)

    assert told_to_go(at_once) == []
    assert told_to_go(effects) == [LAST]
    (next_one,) = sent(effects, ForwardMicrobatch)
    assert [each.worker_id for each in next_one.route.layer_workers] == ["layer-1"]


@pytest.mark.parametrize(
    ("worker_id", "reason"),
    [("layer-0", "last of its kind"), ("kv", "KV manager"), ("nobody", "no worker 'nobody'")],
)
def test_who_is_needed_stays(bench: RouterBench, worker_id: str, reason: str) -> None:
    refusal = bench.state.drains.refusal(WorkerId(worker_id))

    assert refusal is not None
    assert reason in refusal
    assert drain(bench, WorkerId(worker_id)) == []


def test_a_worker_that_wants_to_leave_is_drained(bench: RouterBench) -> None:
    microbatch = bench.run(line(0, stop=stop_after(1)))

    asked = bench.tell(drain_wanted(LEAVING))
    at_the_end = bench.come_home(microbatch)

    assert sent(asked, WorkerLeaving) == [WorkerLeaving(worker_id=LEAVING, epoch=Epoch(1))]
    assert told_to_go(asked) == []
    assert told_to_go(at_the_end) == [LEAVING]


def test_the_last_of_its_kind_goes_too_once_it_wants_to(bench: RouterBench) -> None:
    microbatch = bench.run(line(0, stop=stop_after(9)))

    asked = bench.tell(drain_wanted(LAST))
    home = bench.come_home(microbatch)

    assert told_to_go(asked) == []
    assert told_to_go(home) == [LAST]


def test_the_wish_to_leave_may_be_said_again(bench: RouterBench) -> None:
    bench.run(line(0, stop=stop_after(9)))
    bench.tell(drain_wanted(LEAVING, deadline_s=8.0))
    bench.now = 3.0

    effects = bench.tell(drain_wanted(LEAVING, deadline_s=5.0))

    assert [(each.key, each.at_s) for each in of_kind(effects, SetTimer)] == [
        (("drain", LEAVING, 1), 8.0)
    ]
    assert of_kind(effects, Note) == []


def test_the_wish_of_an_earlier_life_is_nothing_to_this_one(bench: RouterBench) -> None:
    assert bench.tell(drain_wanted(LEAVING, epoch=7)) == []
    assert not bench.state.members.workers[LEAVING].leaving


def test_speeds_go_to_the_kv_manager(bench: RouterBench) -> None:
    bench.tell(heartbeat("attention-0", tokens_per_s=2e6))
    bench.now = 1.0

    (told,) = sent(bench.tell(TimerFired("heartbeat")), SpeedsMeasured)

    assert [(each.worker_id, each.tokens_per_s) for each in told.speeds] == [(LEAVING, 2e6)]
