"""The loop brings events to the state and carries out its effects, in order, until it says stop."""

import asyncio
import threading
from dataclasses import dataclass

import pytest
from structlog.testing import capture_logs

from common.errors import OutOfPages, SettingsError
from common.ids import Endpoint, Epoch, WorkerId
from common.messages import Drain, Hop, RouterHeartbeat
from common.runtime.counters import Counters
from common.runtime.effects import (
    CancelTimer,
    LinkLost,
    Note,
    Run,
    Send,
    SetTimer,
    Stop,
    StopRequested,
    TermRaised,
    TimerFired,
    WorkFailed,
)
from common.runtime.fence import WorkerFence
from common.runtime.loop import ServiceLoop
from common.runtime.mailbox import Mailbox
from tests.support.clock import FakeClock
from tests.support.loop import END_NOW, ScriptedState, running
from tests.support.transport import FakeTransport

HEARTBEAT = RouterHeartbeat(oldest_live=0)
PEER = Hop(worker_id=WorkerId("peer"), endpoint=Endpoint("ipc:///peer"), epoch=Epoch(9))


@dataclass(frozen=True)
class Own:
    """An effect of the service's own."""

    number: int


class Rig:
    """A service loop with everything around it faked."""

    def __init__(self, start=(), answers=None, **options):
        self.clock = FakeClock()
        self.transport = FakeTransport(epoch=Epoch(7))
        self.counters = Counters()
        self.state = ScriptedState(list(start), END_NOW | (answers or {}))
        mailbox = Mailbox(self.transport, WorkerFence(Epoch(7)), self.counters)
        self.service = ServiceLoop(self.state.at, mailbox, clock=self.clock, **options)


async def test_the_state_learns_the_bound_address_and_its_start_is_carried_out():
    rig = Rig(start=[Send(PEER, HEARTBEAT)])

    async with running(rig.service):
        pass

    assert rig.state.endpoint == rig.transport.endpoint
    assert [message for _, message, _ in rig.transport.sent] == [HEARTBEAT]


async def test_messages_and_lost_links_reach_the_state_in_order():
    rig = Rig()

    async with running(rig.service):
        rig.transport.deliver(HEARTBEAT)
        rig.transport.on_lost(PEER.endpoint, PEER.epoch)
        events = await rig.state.told(3)

    assert events[:3] == [TermRaised(1), HEARTBEAT, LinkLost(PEER.endpoint, PEER.epoch)]


async def test_effects_are_carried_out_in_their_order():
    done = []
    effects = [Own(1), Send(PEER, HEARTBEAT), Own(2)]
    rig = Rig(perform=lambda own: done.append((own.number, len(rig.transport.sent))), start=effects)

    async with running(rig.service):
        pass

    assert done == [(1, 0), (2, 1)]


async def test_a_timer_fires_at_its_time_and_only_once():
    rig = Rig(start=[SetTimer("a", 1005.0)])

    async with running(rig.service):
        rig.clock.advance(4.9)
        before = list(rig.state.events)
        rig.clock.advance(10.0)

    assert before == []
    assert rig.state.events[0] == TimerFired("a")
    assert TimerFired("a") not in rig.state.events[1:]


async def test_a_timer_set_again_replaces_the_earlier_one_and_a_cancelled_one_never_fires():
    rig = Rig(start=[SetTimer("a", 1001.0), SetTimer("b", 1001.0)])
    rig.state._answers |= {Drain: lambda _: [SetTimer("a", 1009.0), CancelTimer("b")]}

    async with running(rig.service):
        rig.transport.deliver(Drain(deadline_s=1.0))
        rig.clock.advance(8.0)
        at_8 = list(rig.state.events)
        rig.clock.advance(1.0)

    assert [event for event in at_8 if isinstance(event, TimerFired)] == []
    assert TimerFired("a") in rig.state.events


async def test_no_timer_is_left_after_the_end():
    rig = Rig(start=[SetTimer("a", 1001.0)])

    async with running(rig.service):
        pass

    assert rig.clock.num_alarms == 0


async def test_work_is_done_off_the_loop_in_order_and_comes_back_as_events():
    threads = set()

    def compute(work):
        threads.add(threading.current_thread())
        return ("done", work)

    rig = Rig(start=[Run(1), Run(2), Run(3)], compute=compute)

    async with running(rig.service):
        events = await rig.state.told(3)

    assert events[:3] == [("done", 1), ("done", 2), ("done", 3)]
    assert len(threads) == 1
    assert threading.main_thread() not in threads
    assert rig.counters.visits == 3
    assert rig.counters.busy_s > 0


async def test_brief_work_is_done_by_the_loop_itself_after_the_turn_that_asked_for_it():
    done = []

    def compute(work):
        done.append((work, threading.current_thread(), len(rig.transport.sent)))
        return ("done", work)

    rig = Rig(start=[Run(1, brief=True), Send(PEER, HEARTBEAT)], compute=compute)

    async with running(rig.service):
        events = await rig.state.told(1)

    assert events[0] == ("done", 1)
    assert done == [(1, threading.main_thread(), 1)]
    assert rig.counters.visits == 1


async def test_brief_work_that_fails_is_an_event_with_the_work():
    error = OutOfPages(3, 2)

    def compute(work):
        raise error

    rig = Rig(start=[Run("work", brief=True)], compute=compute)

    async with running(rig.service):
        events = await rig.state.told(1)

    assert events[0] == WorkFailed("work", error)


async def test_messages_arrive_while_the_engine_computes():
    entered, release = threading.Event(), threading.Event()

    def compute(work):
        entered.set()
        release.wait(5)
        return work

    rig = Rig(start=[Run("slow")], compute=compute)

    async with running(rig.service):
        await asyncio.to_thread(entered.wait, 5)
        rig.transport.deliver(HEARTBEAT)
        release.set()
        events = await rig.state.told(3)

    assert events[:3] == [TermRaised(1), HEARTBEAT, "slow"]


async def test_an_error_of_the_engine_is_an_event_with_the_work():
    error = OutOfPages(3, 2)

    def compute(work):
        raise error

    rig = Rig(start=[Run("work")], compute=compute)

    async with running(rig.service):
        events = await rig.state.told(1)

    assert events[0] == WorkFailed("work", error)


async def test_the_engine_thread_ends_with_the_loop():
    rig = Rig(start=[Run(1)], compute=lambda work: None)

    async with running(rig.service):
        pass

    assert "engine" not in [thread.name for thread in threading.enumerate()]
    assert not rig.service.engine_hangs


async def test_an_engine_that_hangs_does_not_keep_the_loop():
    entered, release, ended = threading.Event(), threading.Event(), threading.Event()

    def compute(work):
        entered.set()
        release.wait(5)
        ended.set()

    stop = {Drain: lambda _: [Stop("at once", exit_code=3)]}
    rig = Rig(start=[Run("hangs")], answers=stop, compute=compute)

    async with running(rig.service) as task:
        await asyncio.to_thread(entered.wait, 5)
        rig.transport.deliver(Drain(deadline_s=1.0))
        exit_code = await task

    assert exit_code == 3
    assert rig.service.engine_hangs
    release.set()
    assert await asyncio.to_thread(ended.wait, 5)


async def test_a_stop_gives_its_exit_code_and_lets_last_words_leave():
    rig = Rig(start=[Send(PEER, HEARTBEAT), Stop("drained"), Send(PEER, HEARTBEAT)])

    async with running(rig.service) as task:
        exit_code = await task

    assert exit_code == 0
    assert rig.transport.closed_with_linger_s > 0


async def test_a_stop_with_an_error_code_does_not_linger():
    rig = Rig(start=[Stop("refused", exit_code=3)])

    async with running(rig.service) as task:
        exit_code = await task

    assert exit_code == 3
    assert rig.transport.closed_with_linger_s == 0


async def test_nothing_is_told_after_a_stop():
    rig = Rig(answers={Drain: lambda _: [Stop("drained")]})

    async with running(rig.service) as task:
        rig.transport.deliver(Drain(deadline_s=1.0))
        rig.transport.deliver(HEARTBEAT)
        await task

    assert HEARTBEAT not in rig.state.events


async def test_a_bug_in_the_state_ends_the_process_with_a_traceback():
    def fail(event):
        raise KeyError("bug")

    rig = Rig(answers={RouterHeartbeat: fail})

    with capture_logs() as lines:
        async with running(rig.service) as task:
            rig.transport.deliver(HEARTBEAT)
            exit_code = await task

    assert exit_code == 70
    assert any(line.get("exc_info") for line in lines)
    assert rig.transport.closed_with_linger_s == 0


async def test_the_first_request_to_stop_asks_and_the_second_does_not():
    rig = Rig()

    async with running(rig.service) as task:
        rig.service.request_stop()
        asked = list(rig.state.events)
        rig.service.request_stop()
        exit_code = await task

    assert asked == [StopRequested()]
    assert exit_code == 130


async def test_a_posted_event_comes_after_the_turn_that_posted_it():
    order = []
    rig = Rig(
        start=[Own(1), Own(2)],
        perform=lambda own: (order.append(own.number), rig.service.post(own)),
    )

    async with running(rig.service):
        events = await rig.state.told(2)

    assert order == [1, 2]
    assert events[:2] == [Own(1), Own(2)]


async def test_a_note_becomes_a_log_line():
    rig = Rig(start=[Note("joined", {"worker": "w"}, level="warning")])

    with capture_logs() as lines:
        async with running(rig.service):
            pass

    assert {"event": "joined", "worker": "w", "log_level": "warning"} in lines


async def test_a_part_is_cancelled_at_the_end():
    entered, cancelled = asyncio.Event(), []

    async def part(service):
        entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.append(service)

    rig = Rig(parts=(part,))

    async with running(rig.service):
        await entered.wait()

    assert cancelled == [rig.service]


@pytest.mark.parametrize(("error", "code"), [(SettingsError("port in use"), 2), (KeyError(), 70)])
async def test_a_part_that_fails_ends_the_service(error, code):
    async def part(service):
        raise error

    rig = Rig(parts=(part,))

    with capture_logs():
        async with running(rig.service) as task:
            exit_code = await task

    assert exit_code == code
