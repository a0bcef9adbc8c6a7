"""A carrier without sockets: it remembers what was sent and delivers what a test says."""

from collections.abc import Callable

from common.errors import WireError
from common.ids import Endpoint, Epoch, Term, WorkerId
from common.messages import Hop, Message
from common.wire.codec import Header


class FakeTransport:
    """Plays the wire of one process whose epoch is `epoch`; every message has 100 tensor bytes."""

    def __init__(self, epoch: int = 0) -> None:
        self.epoch = epoch
        self.endpoint = Endpoint("ipc:///fake")
        self.sent: list[tuple[Hop, Message, Term]] = []
        self.closed_with_linger_s: float | None = None
        self.on_message: Callable[[Header, Message], None] | None = None
        self.on_rejected: Callable[[WireError], None] | None = None
        self.on_lost: Callable[[Endpoint, Epoch], None] | None = None

    def open(
        self,
        on_message: Callable[[Header, Message], None],
        on_rejected: Callable[[WireError], None],
        on_lost: Callable[[Endpoint, Epoch], None],
    ) -> Endpoint:
        self.on_message, self.on_rejected, self.on_lost = on_message, on_rejected, on_lost
        return self.endpoint

    def send(self, to: Hop, message: Message, *, term: Term) -> int:
        self.sent.append((to, message, term))
        return 100

    def close(self, linger_s: float) -> None:
        self.closed_with_linger_s = linger_s

    def deliver(
        self,
        message: Message,
        *,
        term: int = 1,
        sender: str = "router",
        receiver_epoch: int | None = None,
    ) -> None:
        """Let a message arrive, by default one that is meant for this process."""
        assert self.on_message, "the mailbox is not open"
        self.on_message(make_header(term, sender, receiver_epoch or self.epoch), message)


def make_header(term: int, sender: str, receiver_epoch: int) -> Header:
    """Give a header; the sender's epoch does not matter."""
    return Header(
        term=Term(term),
        sender=WorkerId(sender),
        sender_epoch=Epoch(5),
        receiver_epoch=Epoch(receiver_epoch),
    )
