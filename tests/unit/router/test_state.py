"""What the router decides about members: who is one, as what, and what their loss means."""

import pytest

from common.ids import Epoch, PageId, RequestId, WorkerId
from common.messages import (
    ForwardMicrobatch,
    PagesReserved,
    Registered,
    RegisterRefused,
    ReservePages,
    RouterHeartbeat,
    WorkerJoined,
    WorkerLost,
    WorkerReady,
)
from common.messages.entries import NUM_ROWS, START
from common.runtime.effects import Send, SetTimer, Stop, StopRequested, TimerFired
from tests.support.router import (
    RouterBench,
    beat,
    drain_wanted,
    heartbeat,
    hop,
    line,
    link_lost,
    of_kind,
    register,
    sent,
)


@pytest.fixture
def bench() -> RouterBench:
    return RouterBench(num_ranges=2)


def test_layer_workers_get_the_ranges_in_order(bench: RouterBench) -> None:
    first = sent(bench.join("layer-0", "layer_worker"), Registered)[0]
    second = sent(bench.join("layer-1", "layer_worker"), Registered)[0]

    assert first.layers is not None
    assert second.layers is not None
    assert (first.layers.start, first.layers.stop, first.layers.first) == (0, 2, True)
    assert (second.layers.start, second.layers.stop, second.layers.last) == (2, 4, True)


def test_an_ordinal_is_a_preference(bench: RouterBench) -> None:
    effects = bench.join("layer-1", "layer_worker", ordinal=1)

    layers = sent(effects, Registered)[0].layers
    assert layers is not None
    assert layers.start == 2


def test_an_uncovered_range_goes_before_a_preference(bench: RouterBench) -> None:
    bench.join("layer-0", "layer_worker", ordinal=0)

    effects = bench.join("layer-1", "layer_worker", ordinal=0)

    layers = sent(effects, Registered)[0].layers
    assert layers is not None
    assert layers.start == 2


def test_another_model_is_refused_in_one_line(bench: RouterBench) -> None:
    effects = bench.tell(register("layer-0", "layer_worker", model="other"))

    refusal = sent(effects, RegisterRefused)[0]
    assert "other" in refusal.reason
    assert "\n" not in refusal.reason
    assert not bench.state.members.workers


def test_a_second_kv_manager_is_refused(bench: RouterBench) -> None:
    bench.join("kv", "kv_manager")

    effects = bench.tell(register("kv-2", "kv_manager"))

    assert "already" in sent(effects, RegisterRefused)[0].reason


def test_a_repeated_registration_gets_the_same_answer(bench: RouterBench) -> None:
    first = sent(bench.tell(register("layer-0", "layer_worker")), Registered)

    again = sent(bench.tell(register("layer-0", "layer_worker")), Registered)

    assert again == first


def test_an_attention_worker_is_announced_whichever_comes_first(bench: RouterBench) -> None:
    bench.join("attention-0", "attention_worker")

    effects = bench.join("kv", "kv_manager") + bench.join("attention-1", "attention_worker")

    announced = [message.worker_id for message in sent(effects, WorkerJoined)]
    assert announced == ["attention-0", "attention-1"]


def test_nothing_starts_before_every_layer_is_covered(bench: RouterBench) -> None:
    bench.join_all(layer_workers=1)

    waiting = bench.submit(line(0))
    started = bench.join("layer-1", "layer_worker")

    assert sent(waiting, ReservePages) == []
    assert len(sent(started, ReservePages)) == 1


def test_a_new_epoch_is_the_loss_of_the_old(bench: RouterBench) -> None:
    bench.join_all(layer_workers=2)
    microbatch = bench.run(line(0))

    bench.join("attention-0", "attention_worker", epoch=2)

    assert microbatch.microbatch_id not in bench.state.scheduler.flights.live
    worker = bench.state.members.workers[WorkerId("attention-0")]
    assert worker.hop.epoch == 2


def test_a_lost_attention_worker_means_recompute_elsewhere(bench: RouterBench) -> None:
    bench.join_all(layer_workers=2, attention_workers=2)
    first = bench.run(line(0))
    bench.come_home(first)

    effects = bench.tell(link_lost("attention-0"))
    again = sent(bench.grant(effects, "attention-1"), ForwardMicrobatch)[0]

    assert sent(effects, WorkerLost)[0].worker_id == "attention-0"
    assert again.route.shards[0].worker == hop("attention-1")
    entry = again.entries.numpy()[0]
    assert (entry[START], entry[NUM_ROWS]) == (0, 4)
    assert again.token_ids.numpy().tolist() == [1, 2, 3, 7]


def test_a_lost_layer_worker_fails_its_microbatches_and_pauses(bench: RouterBench) -> None:
    bench.join_all(layer_workers=2)
    first = bench.run(line(0))

    lost = bench.tell(link_lost("layer-1"))
    back = bench.join("layer-1", "layer_worker", epoch=2)

    assert sent(lost, ForwardMicrobatch) == []
    again = sent(back, ForwardMicrobatch)[0]
    assert again.microbatch_id > first.microbatch_id
    assert again.route.layer_workers == (hop("layer-0"), hop("layer-1", 2))


def test_pages_of_an_earlier_epoch_are_not_used(bench: RouterBench) -> None:
    bench.join_all(layer_workers=2)
    asked = sent(bench.submit(line(0)), ReservePages)[0]
    late = PagesReserved(
        number=asked.number,
        request_id=RequestId(0),
        worker_id=WorkerId("attention-0"),
        epoch=Epoch(9),
        new_pages=(PageId(0),),
        num_found=0,
    )

    effects = bench.tell(late)

    assert sent(effects, ForwardMicrobatch) == []
    assert len(sent(effects, ReservePages)) == 1


def test_a_silent_worker_is_lost_after_its_lease_and_told_so(bench: RouterBench) -> None:
    bench.join("attention-0", "attention_worker")
    beat(bench, 1.0, 2.0)

    effects = beat(bench, 3.0)

    assert not bench.state.members.workers
    assert (
        Send(hop("attention-0"), WorkerLost(worker_id=WorkerId("attention-0"), epoch=Epoch(1)))
        in effects
    )


def test_a_heartbeat_renews_the_lease(bench: RouterBench) -> None:
    bench.join("attention-0", "attention_worker")
    beat(bench, 1.0, 2.0)
    bench.tell(heartbeat("attention-0"))

    effects = beat(bench, 3.0, 4.0)

    assert len(sent(effects, RouterHeartbeat)) == 1
    assert SetTimer("heartbeat", 5.0) in effects


def test_a_lease_that_ends_between_two_heartbeats_is_not_waited_out(bench: RouterBench) -> None:
    bench.join("attention-0", "attention_worker")
    bench.now = 0.4
    bench.tell(heartbeat("attention-0"))

    effects = beat(bench, 1.0, 2.0, 3.0)
    bench.now = 3.4
    lost = bench.tell(TimerFired("lease"))

    assert SetTimer("lease", 3.4) in effects
    assert [each.worker_id for each in sent(lost, WorkerLost)] == ["attention-0"]


def test_the_lease_that_ends_next_is_watched_too(bench: RouterBench) -> None:
    for name, said_s in (("attention-0", 0.4), ("attention-1", 0.7)):
        bench.join(name, "attention_worker")
        bench.now = said_s
        bench.tell(heartbeat(name))
    beat(bench, 1.0, 2.0, 3.0)

    bench.now = 3.3999  # an alarm may be a little early
    early = bench.tell(TimerFired("lease"))
    bench.now = 3.4
    first = bench.tell(TimerFired("lease"))

    assert of_kind(early, SetTimer) == [SetTimer("lease", 3.4)]
    assert [each.worker_id for each in sent(first, WorkerLost)] == ["attention-0"]
    assert of_kind(first, SetTimer) == [SetTimer("lease", 3.7)]


def test_a_router_that_stood_still_itself_judges_nobody_by_a_lease(bench: RouterBench) -> None:
    bench.join("attention-0", "attention_worker")
    beat(bench, 1.0, 2.0)

    bench.now = 8.0
    lost = bench.tell(TimerFired("lease"))
    beat(bench, 8.0)

    assert sent(lost, WorkerLost) == []
    assert len(bench.state.members.workers) == 1


def test_a_router_that_stood_still_itself_judges_nobody(bench: RouterBench) -> None:
    bench.join("attention-0", "attention_worker")

    effects = beat(bench, 60.0)

    assert sent(effects, WorkerLost) == []
    assert bench.state.members.workers


def test_a_life_that_was_given_up_does_not_come_back(bench: RouterBench) -> None:
    bench.join("kv", "kv_manager")
    bench.tell(link_lost("kv"))

    effects = bench.tell(register("kv", "kv_manager"))

    assert sent(effects, Registered) == []
    assert sent(effects, WorkerLost)[0].epoch == 1


def test_a_layer_worker_that_was_given_up_may_come_back(bench: RouterBench) -> None:
    bench.join("layer-0", "layer_worker")
    bench.tell(link_lost("layer-0"))

    effects = bench.tell(register("layer-0", "layer_worker"))

    assert len(sent(effects, Registered)) == 1


def test_a_spare_layer_worker_fills_a_gap(bench: RouterBench) -> None:
    for name in ("layer-0", "layer-1", "layer-2"):
        bench.join(name, "layer_worker")

    effects = bench.tell(link_lost("layer-1"))

    layers = sent(effects, Registered)[0].layers
    assert layers is not None
    assert layers.start == 2
    assert not bench.state.members.workers[WorkerId("layer-2")].ready


def test_a_leaving_layer_worker_gets_nothing_new(bench: RouterBench) -> None:
    bench.join_all(layer_workers=3)

    bench.tell(drain_wanted("layer-0"))
    microbatch = bench.run(line(0))

    assert microbatch.route.layer_workers[0].worker_id == "layer-2"


def test_being_asked_to_stop_stops(bench: RouterBench) -> None:
    effects = bench.tell(StopRequested())

    assert of_kind(effects, Stop) == [Stop("asked to stop")]


def test_a_new_kv_manager_is_asked_for_pages_only_after_it_was_told_the_pools() -> None:
    bench = RouterBench()
    bench.join_all()
    bench.submit(line(0))

    early = bench.tell(register("kv", "kv_manager", epoch=2))
    ready = bench.tell(
        WorkerReady(worker_id=WorkerId("kv"), epoch=Epoch(2), num_pages=0, layers=None)
    )

    assert not sent(early, ReservePages)
    messages = [type(each.message) for each in ready if isinstance(each, Send)]
    assert messages == [WorkerJoined, ReservePages]
