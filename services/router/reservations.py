"""What the KV manager was asked: numbered, and repeated until answered."""

from dataclasses import dataclass, field

from common.ids import RequestId
from common.messages import ReleasePages, ReservePages
from services.router.requests import Request

KvCommand = ReservePages | ReleasePages


@dataclass(slots=True)
class _Unanswered:
    command: KvCommand
    said_s: float


@dataclass(slots=True)
class Reservations:
    """What the KV manager was asked and has not answered yet: the last word about each request."""

    next_number: int = 1
    unanswered: dict[RequestId, _Unanswered] = field(default_factory=dict)

    def is_reserving(self, request: Request) -> bool:
        """Say whether a reservation of this request is unanswered."""
        asked = self.unanswered.get(request.request_id)
        return asked is not None and isinstance(asked.command, ReservePages)

    def ask(self, command: KvCommand, now: float) -> KvCommand:
        """Await an answer to a command; what was asked about the request before is void."""
        self.void(command.request_id)
        self.unanswered[command.request_id] = _Unanswered(command, now)
        return command

    def void(self, request_id: RequestId) -> None:
        """Take no answer about a request any more."""
        self.unanswered.pop(request_id, None)

    def take_number(self) -> int:
        """Give the number of the next message."""
        number = self.next_number
        self.next_number += 1
        return number

    def answer(self, request_id: RequestId, number: int) -> KvCommand | None:
        """Take an answer; None if it was answered before, or is void."""
        asked = self.unanswered.get(request_id)
        if asked is None or asked.command.number != number:
            return None
        del self.unanswered[request_id]
        return asked.command

    def overdue(self, now: float, patience_s: float) -> list[KvCommand]:
        """List, in order, what is to be repeated now."""
        late = [asked for asked in self.unanswered.values() if now - asked.said_s >= patience_s]
        for asked in late:
            asked.said_s = now
        return [asked.command for asked in late]

    def forget(self) -> list[RequestId]:
        """Void everything: there is a new KV manager, and a late answer is of the old one.

        Returns:
            Whose reservations were unanswered.
        """
        asked = [each.command for each in self.unanswered.values()]
        self.unanswered.clear()
        return [command.request_id for command in asked if isinstance(command, ReservePages)]
