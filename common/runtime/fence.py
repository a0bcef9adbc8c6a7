"""Which messages belong to this life and term: late ones from earlier lives are kept out."""

from enum import Enum
from typing import Protocol

from common.ids import ROUTER_ID, Epoch, Term
from common.messages.base import Message
from common.messages.member import Register, RegisterRefused
from common.wire.codec import Header

NO_EPOCH = Epoch(0)
"""The epoch in messages to the router, whose lives are told apart by the term."""


class Verdict(Enum):
    """What to do with a message; all but the first two keep it out."""

    ADMIT = "admit"
    ADMIT_AND_RAISE = "admit and raise the term"
    OTHER_EPOCH = "meant for another epoch"
    EARLIER_TERM = "from an earlier term"
    LATER_TERM = "from a later term"

    @property
    def admits(self) -> bool:
        """Tell whether the message may come in."""
        return self in (Verdict.ADMIT, Verdict.ADMIT_AND_RAISE)


class Fence(Protocol):
    """Judges each message before the state sees it."""

    @property
    def term(self) -> Term:
        """The highest term known; it goes out with every message."""
        ...

    def judge(self, header: Header, message: Message) -> Verdict:
        """Decide about a message, and take note of a raised term."""
        ...


class WorkerFence:
    """Lets in what is meant for this epoch and not from an earlier term.

    A peer may know of a higher term first: its message comes in, but only the router raises. A
    refusal comes in from any term: a router that lost its job store begins with the first again.
    """

    def __init__(self, epoch: Epoch) -> None:
        self._epoch = epoch
        self._term = Term(0)

    @property
    def term(self) -> Term:
        """The highest term that the router has spoken in; 0 before its first word."""
        return self._term

    def judge(self, header: Header, message: Message) -> Verdict:
        """Decide about a message, and take note of a raised term."""
        if header.receiver_epoch != self._epoch:
            return Verdict.OTHER_EPOCH
        if header.term < self._term and not isinstance(message, RegisterRefused):
            return Verdict.EARLIER_TERM
        if header.term > self._term and header.sender == ROUTER_ID:
            self._term = header.term
            return Verdict.ADMIT_AND_RAISE
        return Verdict.ADMIT


class RouterFence:
    """Lets in what is said in the router's own term, and whoever registers."""

    def __init__(self, term: Term) -> None:
        self._term = term

    @property
    def term(self) -> Term:
        """The router's own term."""
        return self._term

    def judge(self, header: Header, message: Message) -> Verdict:
        """Decide about a message; the router's term never changes."""
        if header.receiver_epoch != NO_EPOCH:
            return Verdict.OTHER_EPOCH
        if header.term == self._term or isinstance(message, Register):
            return Verdict.ADMIT
        return Verdict.LATER_TERM if header.term > self._term else Verdict.EARLIER_TERM
