"""The mailbox turns arrivals into events, and counts what it keeps out."""

import pytest
from structlog.testing import capture_logs

from common.errors import WireError
from common.ids import Endpoint, Epoch, Term, WorkerId
from common.messages import Hop, LinkBytes, RouterHeartbeat
from common.runtime.counters import Counters
from common.runtime.effects import LinkLost, TermRaised
from common.runtime.fence import Verdict, WorkerFence
from common.runtime.mailbox import Mailbox
from tests.support.transport import FakeTransport

HEARTBEAT = RouterHeartbeat(oldest_live=0)
PEER = Hop(worker_id=WorkerId("peer"), endpoint=Endpoint("ipc:///peer"), epoch=Epoch(9))


@pytest.fixture
def transport() -> FakeTransport:
    return FakeTransport(epoch=Epoch(7))


@pytest.fixture
def mailbox(transport) -> Mailbox:
    return Mailbox(transport, WorkerFence(Epoch(7)), Counters())


def test_the_raised_term_is_told_before_the_message_that_raised_it(mailbox, transport):
    events = []
    mailbox.open(events.append)

    transport.deliver(HEARTBEAT, term=2)
    transport.deliver(HEARTBEAT, term=2)

    assert events == [TermRaised(Term(2)), HEARTBEAT, HEARTBEAT]
    assert mailbox.counters.received == 2


def test_a_message_to_another_epoch_is_counted_and_not_told(mailbox, transport):
    events = []
    mailbox.open(events.append)

    with capture_logs():
        transport.deliver(HEARTBEAT, receiver_epoch=Epoch(8))

    assert events == []
    assert mailbox.counters.dropped == {Verdict.OTHER_EPOCH.value: 1}


def test_a_flood_of_rejections_becomes_few_log_lines(mailbox, transport):
    mailbox.open(lambda event: None)

    with capture_logs() as lines:
        for _ in range(1000):
            transport.on_rejected(WireError("protocol version 9, 1 is spoken here"))

    assert mailbox.counters.rejected.total() == 1000
    assert len(lines) == 10


def test_a_lost_link_is_an_event(mailbox, transport):
    events = []
    mailbox.open(events.append)

    transport.on_lost(PEER.endpoint, PEER.epoch)

    assert events == [LinkLost(PEER.endpoint, PEER.epoch)]


def test_what_is_sent_carries_the_known_term_and_is_counted_by_peer(mailbox, transport):
    mailbox.open(lambda event: None)
    transport.deliver(HEARTBEAT, term=4)

    mailbox.send(PEER, HEARTBEAT)
    mailbox.send(PEER, HEARTBEAT)

    assert transport.sent == [(PEER, HEARTBEAT, Term(4))] * 2
    assert mailbox.counters.measured().links == (LinkBytes(peer=PEER.worker_id, sent_bytes=200),)
