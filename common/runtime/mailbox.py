"""The way between wire and state: fences, counts and logs what comes in, stamps what goes out."""

from collections.abc import Callable
from typing import Any, Protocol

from common.errors import WireError
from common.ids import Endpoint, Epoch, Term
from common.log import get_logger
from common.messages.base import Message
from common.messages.step import Hop
from common.runtime.counters import Counters
from common.runtime.effects import LinkLost, TermRaised
from common.runtime.fence import Fence, Verdict
from common.wire.codec import Header

log = get_logger()


class Carrier(Protocol):
    """What carries messages: `common.wire.transport.Transport`, or a test's fake."""

    def open(
        self,
        on_message: Callable[[Header, Message], None],
        on_rejected: Callable[[WireError], None],
        on_lost: Callable[[Endpoint, Epoch], None],
    ) -> Endpoint:
        """Bind the inbox and give the address that it got."""
        ...

    def send(self, to: Hop, message: Message, *, term: Term) -> int:
        """Send without waiting; gives the bytes of its tensors."""
        ...

    def close(self, linger_s: float) -> None:
        """Close all links; what was sent gets this long to leave."""
        ...


class Mailbox:
    """One process's inbox and outgoing links, as its loop sees them: events in, messages out."""

    def __init__(self, carrier: Carrier, fence: Fence, counters: Counters) -> None:
        self.counters = counters
        self._carrier = carrier
        self._fence = fence

    def open(self, on_event: Callable[[Any], None]) -> Endpoint:
        """Listen; give the bound address.

        Args:
            on_event: Gets each message that the fence admits, `TermRaised` before the first message
                of a higher term, and `LinkLost`.
        """

        def receive(header: Header, message: Message) -> None:
            verdict = self._fence.judge(header, message)
            if not verdict.admits:
                self._drop(verdict, header, message)
                return
            self.counters.received += 1
            if verdict is Verdict.ADMIT_AND_RAISE:
                on_event(TermRaised(header.term))
            on_event(message)

        return self._carrier.open(
            receive, self._reject, lambda endpoint, epoch: on_event(LinkLost(endpoint, epoch))
        )

    def send(self, to: Hop, message: Message) -> None:
        """Send without waiting, in the term that is known."""
        size = self._carrier.send(to, message, term=self._fence.term)
        self.counters.sent_bytes[to.worker_id] += size

    def close(self, linger_s: float) -> None:
        """Close all links; what was sent gets this long to leave."""
        self._carrier.close(linger_s)

    def _drop(self, verdict: Verdict, header: Header, message: Message) -> None:
        self.counters.dropped[verdict.value] += 1
        if _is_worth_a_line(self.counters.dropped[verdict.value]):
            log.warning(
                "message dropped",
                reason=verdict.value,
                tag=message.TAG,
                sender=header.sender,
                term=header.term,
                num_dropped=self.counters.dropped[verdict.value],
            )

    def _reject(self, error: WireError) -> None:
        self.counters.rejected[error.kind] += 1
        if _is_worth_a_line(self.counters.rejected[error.kind]):
            log.warning(
                "rejected",
                kind=error.kind,
                reason=str(error),
                num_rejected=self.counters.rejected[error.kind],
            )


def _is_worth_a_line(count: int) -> bool:
    """Log the 1st, 2nd, 4th, 8th … of a kind: a flood from a peer must not become a flood of lines."""
    return count & (count - 1) == 0
