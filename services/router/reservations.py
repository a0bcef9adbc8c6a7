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
    reserving: dict[RequestId, int] = field(default_factory=dict)
    """Requests whose reservation is unanswered, and its number."""

    def reserve(self, request_id: RequestId, num_tokens: int, now: float) -> ReservePages:
        """Ask for pages until the request can hold `num_tokens` in total."""
        command = ReservePages(
            number=self._number(),
            request_id=request_id,
            num_tokens=num_tokens,
            expected_tokens=num_tokens,
        )
        self.unanswered[command.number] = _Unanswered(command, now)
        self.reserving[request_id] = command.number
        return command

    def release(self, request_id: RequestId, now: float) -> ReleasePages:
        """Give back all pages of a request; an unanswered reservation of it is void."""
        if (void := self.reserving.pop(request_id, None)) is not None:
            self.unanswered.pop(void, None)
        command = ReleasePages(number=self._number(), request_id=request_id)
        self.unanswered[command.number] = _Unanswered(command, now)
        return command

    def _number(self) -> int:
        number = self.next_number
        self.next_number += 1
        return number

    def answer(self, number: int) -> KvCommand | None:
        """Take an answer's number; None if it was answered before, or is void."""
        asked = self.unanswered.pop(number, None)
        if asked is None:
            return None
        self.reserving.pop(asked.command.request_id, None)
        return asked.command

    def overdue(self, now: float, patience_s: float) -> list[KvCommand]:
        """List, in order, what is to be repeated now."""
        late = [asked for asked in self.unanswered.values() if now - asked.said_s >= patience_s]
        for asked in late:
            asked.said_s = now
        return [asked.command for asked in late]

    def forget(self) -> None:
        """Void everything: there is a new KV manager."""
        self.unanswered.clear()
        self.reserving.clear()
