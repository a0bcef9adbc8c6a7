"""A worker joins a router over real sockets, and joins again when another life of it appears."""

from dataclasses import replace

from common.ids import ROUTER_ID, Endpoint, Epoch, Term, WorkerId
from common.messages import Heartbeat, Hop, Register, Registered, WorkerLost
from common.runtime.counters import Counters
from common.runtime.effects import Send, StopRequested
from common.runtime.fence import NO_EPOCH, RouterFence, WorkerFence
from common.runtime.loop import ServiceLoop
from common.runtime.mailbox import Mailbox
from common.runtime.member import Member, Patience
from common.wire.limits import WireLimits
from common.wire.transport import Transport
from tests.support.loop import END_NOW, ScriptedState, running

WORKER = WorkerId("w")
PATIENCE = Patience(register_interval_s=0.02, router_silence_s=60.0, stop_timeout_s=5.0)


class WorkerState:
    """A worker that is nothing but a member, and always idle."""

    def __init__(self, member):
        self._member = member

    def start(self, now):
        return self._member.start(now)

    def handle(self, event, now):
        return self._member.handle(event, now) + self._member.settle(idle=True)


def make_mailbox(bind, worker_id, epoch, fence):
    transport = Transport(bind=bind, worker_id=worker_id, epoch=epoch, limits=WireLimits())
    return Mailbox(transport, fence, Counters())


def make_router(endpoint, term):
    def answer(register):
        worker = Hop(worker_id=WORKER, endpoint=register.endpoint, epoch=register.epoch)
        return [Send(worker, Registered(layers=None, attention=None, heartbeat_s=0.01))]

    state = ScriptedState([], END_NOW | {Register: answer})
    mailbox = make_mailbox(endpoint, ROUTER_ID, Epoch(term), RouterFence(Term(term)))
    return ServiceLoop(state.at, mailbox), state


def make_worker(router_endpoint, bind):
    epoch = Epoch(77)
    mailbox = make_mailbox(bind, WORKER, epoch, WorkerFence(epoch))
    router = Hop(worker_id=ROUTER_ID, endpoint=router_endpoint, epoch=NO_EPOCH)
    register = Register(
        worker_id=WORKER,
        epoch=epoch,
        role="kv_manager",
        endpoint=bind,
        host="h",
        ordinal=None,
        model=None,
        kernel_path="none",
        term=Term(0),
    )

    def make_state(bound):
        own = replace(register, endpoint=bound)
        return WorkerState(Member(own, router, PATIENCE, mailbox.counters.measured))

    return ServiceLoop(make_state, mailbox)


async def heard(state, kind):
    """Wait until the router has heard a message of this kind."""
    while not any(isinstance(event, kind) for event in state.events):
        await state.told(len(state.events) + 1)


async def test_a_worker_joins_every_life_of_the_router_and_says_goodbye(tmp_path):
    endpoint = Endpoint(f"ipc://{tmp_path}/router")
    first, first_state = make_router(endpoint, term=1)
    second, second_state = make_router(endpoint, term=2)
    worker = make_worker(endpoint, Endpoint(f"ipc://{tmp_path}/worker"))

    async with running(worker) as worker_task:
        async with running(first):
            await heard(first_state, Heartbeat)
        async with running(second):
            await heard(second_state, Heartbeat)
            worker.post(StopRequested())
            await heard(second_state, WorkerLost)
        exit_code = await worker_task

    assert exit_code == 0
    assert isinstance(second_state.events[0], Register)
