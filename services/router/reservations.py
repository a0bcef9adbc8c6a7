"""The router's side of the conversation about pages: numbered, and repeated until answered."""

from dataclasses import dataclass, field

from common.ids import RequestId
from common.messages import ReleasePages, ReservePages

KvCommand = ReservePages | ReleasePages


@dataclass(slots=True)
class _Unanswered:
    command: KvCommand
    said_s: float


@dataclass(slots=True)
class Reservations:
    """What the KV manager was asked and has not answered yet."""

    next_number: int = 1
    unanswered: dict[int, _Unanswered] = field(default_factory=dict)

    def reserve(self, request_id: RequestId, num_tokens: int, now: float) -> ReservePages:
        """Ask for pages until the request can hold `num_tokens` in total."""
        command = ReservePages(
            number=self._number(),
            request_id=request_id,
            num_tokens=num_tokens,
            expected_tokens=num_tokens,
        )
        self.unanswered[command.number] = _Unanswered(command, now)
        return command

    def release(self, request_id: RequestId, now: float) -> ReleasePages:
        """Give back all pages of a request; an unanswered reservation of it is void."""
        for number, entry in list(self.unanswered.items()):
            if entry.command.request_id == request_id:
                del self.unanswered[number]
        command = ReleasePages(number=self._number(), request_id=request_id)
        self.unanswered[command.number] = _Unanswered(command, now)
        return command

    def _number(self) -> int:
        number = self.next_number
        self.next_number += 1
        return number

    def answer(self, number: int) -> KvCommand | None:
        """Take an answer's number; None if it was answered before, or is void."""
        entry = self.unanswered.pop(number, None)
        return entry.command if entry is not None else None

    def num_reserving(self) -> int:
        """Count the reservations without an answer."""
        return sum(isinstance(e.command, ReservePages) for e in self.unanswered.values())

    def overdue(self, now: float, patience_s: float) -> list[KvCommand]:
        """List, in order, what is to be repeated now."""
        late = [entry for entry in self.unanswered.values() if now - entry.said_s >= patience_s]
        for entry in late:
            entry.said_s = now
        return [entry.command for entry in late]

    def forget(self) -> None:
        """Void everything: there is a new KV manager."""
        self.unanswered.clear()
