"""A member joins, is heard, joins again when the router has forgotten it, and leaves in order."""

from dataclasses import replace

import pytest

from common.ids import Endpoint, Epoch, Term, WorkerId
from common.messages import (
    Drain,
    DrainWanted,
    Heartbeat,
    Hop,
    LinkBytes,
    Register,
    Registered,
    RegisterRefused,
    ReleasePages,
    RouterHeartbeat,
    WorkerLost,
    WorkerReady,
)
from common.runtime.counters import Measured
from common.runtime.effects import (
    CancelTimer,
    LinkLost,
    Note,
    Send,
    SetTimer,
    Stop,
    StopRequested,
    TermRaised,
    TimerFired,
)
from common.runtime.member import EXIT_REFUSED, Member, MemberTimer, Patience

ROUTER = Hop(worker_id=WorkerId("router"), endpoint=Endpoint("tcp://r:7400"), epoch=Epoch(0))
W, E = WorkerId("w"), Epoch(7)
REGISTER = Register(
    worker_id=W,
    epoch=E,
    role="attention_worker",
    endpoint=Endpoint("tcp://w:1"),
    host="h",
    ordinal=None,
    model=None,
    kernel_path="cpu-torch",
    term=Term(0),
)
REGISTERED = Registered(layers=None, attention=None, heartbeat_s=0.5)
LINKS = (LinkBytes(peer=WorkerId("p"), sent_bytes=9),)
PATIENCE = Patience(register_interval_s=1.0, router_silence_s=3.0, stop_timeout_s=10.0)
MEASURED = Measured(progress=4, busy_s=1.5, busy=True, links=LINKS, waiting_for=(WorkerId("p"),))
TURN, LEAVE = MemberTimer.TURN, MemberTimer.LEAVE


def wish(deadline_s: float) -> Send:
    return Send(ROUTER, DrainWanted(worker_id=W, epoch=E, deadline_s=deadline_s))


GOODBYE = Send(ROUTER, WorkerLost(worker_id=W, epoch=E))


@pytest.fixture
def member() -> Member:
    """Give a worker that registers every second and bears three seconds of silence."""
    return Member(REGISTER, ROUTER, PATIENCE, lambda: MEASURED)


@pytest.fixture
def joined(member) -> Member:
    """Give a worker that was registered at time 0."""
    member.start(0.0)
    member.handle(REGISTERED, 0.0)
    return member


def test_a_worker_registers_at_its_start(member):
    effects = member.start(100.0)

    assert effects == [Send(ROUTER, REGISTER), SetTimer(TURN, 101.0)]


def test_a_worker_registers_again_until_it_is_answered(member):
    member.start(100.0)

    effects = member.handle(TimerFired(TURN), 101.0)

    assert effects == [Send(ROUTER, REGISTER), SetTimer(TURN, 102.0)]


def test_a_registered_worker_speaks_next_after_the_interval_it_was_told(member):
    member.start(0.0)

    effects = member.handle(REGISTERED, 10.0)

    assert SetTimer(TURN, 10.5) in effects


def test_an_answer_that_comes_again_does_not_put_off_the_next_heartbeat(joined):
    assert joined.handle(REGISTERED, 0.4) == []


def test_a_heartbeat_tells_what_was_measured(joined):
    effects = joined.handle(TimerFired(TURN), 0.5)

    heartbeat = Heartbeat(
        worker_id=W,
        epoch=E,
        progress=4,
        busy=True,
        busy_s=1.5,
        tokens_per_s=0.0,
        links=LINKS,
        waiting_for=(WorkerId("p"),),
    )
    assert effects == [Send(ROUTER, heartbeat), SetTimer(TURN, 1.0)]


def test_a_refused_worker_stops_with_the_reason(member):
    member.start(0.0)

    effects = member.handle(RegisterRefused(reason="another model"), 1.0)

    assert effects == [Stop("refused by the router: another model", exit_code=EXIT_REFUSED)]


def test_a_built_worker_says_that_it_is_ready(joined):
    effects = joined.ready(num_pages=12)

    assert effects == [Send(ROUTER, WorkerReady(worker_id=W, epoch=E, num_pages=12, layers=None))]


def test_a_worker_is_ready_from_its_offer_until_it_registers_again(joined):
    before = joined.is_ready
    joined.ready()
    offered = joined.is_ready

    joined.handle(TermRaised(Term(2)), 1.0)

    assert (before, offered, joined.is_ready) == (False, True, False)


def test_a_worker_that_leaves_is_not_ready(joined):
    joined.ready()

    joined.handle(StopRequested(), 1.0)

    assert not joined.is_ready


def test_a_worker_says_nothing_of_readiness_to_a_router_that_does_not_know_it(member):
    member.start(0.0)

    effects = member.ready(num_pages=12)

    assert effects == []


@pytest.mark.parametrize(
    ("event", "now"),
    [
        (TermRaised(REGISTER.term), 1.0),
        (LinkLost(ROUTER.endpoint, ROUTER.epoch), 1.0),
        (TimerFired(TURN), 3.1),
    ],
)
def test_a_worker_that_the_router_may_have_forgotten_registers_again(joined, event, now):
    effects = joined.handle(event, now)

    assert effects[1:] == [Send(ROUTER, REGISTER), SetTimer(TURN, now + 1.0)]
    assert isinstance(effects[0], Note)


def test_a_router_that_was_heard_lately_is_not_silent(joined):
    joined.handle(RouterHeartbeat(oldest_live=0), 2.0)

    effects = joined.handle(TimerFired(TURN), 4.0)

    assert isinstance(effects[0].message, Heartbeat)


@pytest.mark.parametrize("event", [TermRaised(Term(2)), LinkLost(ROUTER.endpoint, ROUTER.epoch)])
def test_a_worker_that_already_registers_does_not_register_twice(member, event):
    member.start(0.0)

    effects = member.handle(event, 0.5)

    assert effects == []


def test_the_loss_of_another_link_is_nothing_to_membership(joined):
    effects = joined.handle(LinkLost(Endpoint("tcp://p:1"), Epoch(0)), 1.0)

    assert effects == []


def test_a_message_that_no_part_of_the_worker_takes_is_noted(joined):
    effects = joined.handle(ReleasePages(number=1, request_id=1), 1.0)

    assert effects == [Note("message to nobody here", {"tag": "kv.release"}, level="warning")]


def test_a_drained_worker_leaves_once_it_is_idle(joined):
    asked = joined.handle(Drain(deadline_s=60.0), 1.0)
    busy = joined.settle(idle=False)
    idle = joined.settle(idle=True)

    assert asked == [Note("leaving", {"reason": "drained"}), SetTimer(LEAVE, 61.0)]
    assert busy == []
    assert idle == [GOODBYE, CancelTimer(TURN), CancelTimer(LEAVE), Stop("drained")]


def test_a_worker_that_is_asked_to_end_wants_to_be_drained(joined):
    asked = joined.handle(StopRequested(), 1.0)
    idle = joined.settle(idle=True)

    note = Note("leaving", {"reason": "asked to stop"})
    assert asked == [wish(deadline_s=8.0), note, SetTimer(LEAVE, 11.0)]
    assert idle == []


def test_the_wish_is_said_again_until_it_is_granted(joined):
    joined.handle(StopRequested(), 0.0)
    joined.handle(RouterHeartbeat(oldest_live=0), 8.5)

    early = joined.handle(TimerFired(TURN), 0.5)
    late = joined.handle(TimerFired(TURN), 9.0)
    joined.handle(Drain(deadline_s=10.0), 9.1)
    granted = joined.handle(TimerFired(TURN), 9.5)

    assert [type(each.message) for each in granted[:-1]] == [Heartbeat]
    assert (early[1], late[1]) == (wish(deadline_s=7.5), wish(deadline_s=0.0))


def test_being_drained_gives_no_more_time_than_there_is(joined):
    joined.handle(StopRequested(), 0.0)

    granted = joined.handle(Drain(deadline_s=10.0), 4.0)
    again = joined.handle(Drain(deadline_s=10.0), 5.0)
    idle = joined.settle(idle=True)

    assert granted == [SetTimer(LEAVE, 10.0)]
    assert again == []
    assert idle[-1] == Stop("asked to stop")


@pytest.mark.parametrize(
    ("event", "now"),
    [
        (TermRaised(Term(2)), 1.0),
        (LinkLost(ROUTER.endpoint, ROUTER.epoch), 1.0),
        (TimerFired(TURN), 3.1),
        (WorkerLost(worker_id=W, epoch=E), 1.0),
    ],
)
def test_a_leaving_worker_that_the_router_has_forgotten_goes(joined, event, now):
    joined.handle(StopRequested(), 0.0)

    effects = joined.handle(event, now)

    assert effects[0] == GOODBYE
    assert effects[-1] == Stop("asked to stop")


def test_a_kv_manager_that_is_asked_to_end_goes_at_once():
    manager = Member(replace(REGISTER, role="kv_manager"), ROUTER, PATIENCE, lambda: MEASURED)
    manager.start(0.0)
    manager.handle(REGISTERED, 0.0)

    manager.handle(StopRequested(), 1.0)
    effects = manager.settle(idle=True)

    assert effects[-1] == Stop("asked to stop")


def test_a_worker_that_stays_busy_leaves_when_its_time_is_over(joined):
    joined.handle(StopRequested(), 1.0)

    effects = joined.handle(TimerFired(LEAVE), 11.0)

    assert effects[0] == GOODBYE
    assert effects[-1] == Stop("asked to stop")


def test_an_idle_worker_that_nobody_asked_stays(joined):
    assert joined.settle(idle=True) == []


def test_a_worker_that_never_joined_leaves_without_a_word(member):
    member.start(0.0)
    member.handle(StopRequested(), 1.0)

    effects = member.settle(idle=True)

    assert effects == [CancelTimer(TURN), CancelTimer(LEAVE), Stop("asked to stop")]


def test_a_leaving_worker_does_not_offer_itself_again(joined):
    joined.handle(StopRequested(), 1.0)

    joined.handle(REGISTERED, 3.0)
    ready = joined.ready(num_pages=12)

    assert ready == []


def test_a_worker_registers_with_the_highest_term_it_has_heard_of(joined):
    effects = joined.handle(TermRaised(Term(4)), 1.0)

    assert Send(ROUTER, replace(REGISTER, term=Term(4))) in effects
