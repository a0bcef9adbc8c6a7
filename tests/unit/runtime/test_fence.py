"""The fence lets in what belongs to this life and term."""

import pytest

from common.ids import Epoch, Term, WorkerId
from common.messages import Register, RegisterRefused, RouterHeartbeat
from common.runtime.fence import RouterFence, Verdict, WorkerFence
from tests.support.transport import make_header

HEARTBEAT = RouterHeartbeat(oldest_live=0)
REGISTER = Register(
    worker_id=WorkerId("w"),
    epoch=Epoch(7),
    role="kv_manager",
    endpoint="ipc:///w",
    host="h",
    ordinal=None,
    model=None,
    kernel_path="none",
    term=Term(0),
)


@pytest.fixture
def worker_fence() -> WorkerFence:
    """Give the fence of a worker of epoch 7 that has heard the router in term 3."""
    fence = WorkerFence(Epoch(7))
    fence.judge(make_header(3, "router", 7), HEARTBEAT)
    return fence


@pytest.mark.parametrize(
    ("term", "sender", "epoch", "verdict", "term_after"),
    [
        (3, "router", 7, Verdict.ADMIT, 3),
        (3, "router", 8, Verdict.OTHER_EPOCH, 3),
        (9, "router", 0, Verdict.OTHER_EPOCH, 3),
        (2, "router", 7, Verdict.EARLIER_TERM, 3),
        (2, "peer", 7, Verdict.EARLIER_TERM, 3),
        (4, "router", 7, Verdict.ADMIT_AND_RAISE, 4),
        (4, "peer", 7, Verdict.ADMIT, 3),
    ],
)
def test_a_worker_admits_its_epoch_and_no_earlier_term(
    worker_fence, term, sender, epoch, verdict, term_after
):
    judged = worker_fence.judge(make_header(term, sender, epoch), HEARTBEAT)

    assert judged is verdict
    assert worker_fence.term == Term(term_after)


def test_a_worker_lets_a_refusal_of_an_earlier_term_in(worker_fence):
    judged = worker_fence.judge(make_header(1, "router", 7), RegisterRefused(reason="no"))

    assert judged is Verdict.ADMIT
    assert worker_fence.term == Term(3)


@pytest.mark.parametrize(
    ("term", "message", "epoch", "verdict"),
    [
        (3, HEARTBEAT, 0, Verdict.ADMIT),
        (3, HEARTBEAT, 7, Verdict.OTHER_EPOCH),
        (2, HEARTBEAT, 0, Verdict.EARLIER_TERM),
        (0, REGISTER, 0, Verdict.ADMIT),
        (4, REGISTER, 0, Verdict.ADMIT),
        (4, HEARTBEAT, 0, Verdict.LATER_TERM),
    ],
)
def test_the_router_admits_its_own_term_and_workers_that_register(term, message, epoch, verdict):
    fence = RouterFence(Term(3))

    judged = fence.judge(make_header(term, "w", epoch), message)

    assert judged is verdict
    assert fence.term == Term(3)
