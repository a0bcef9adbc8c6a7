"""What the router was answered last, so that a repeated command changes nothing."""

from collections import deque

from common.ids import RequestId
from common.messages import PagesReleased, PagesReserved, PrefixAwaited, ReserveRefused

ReserveAnswer = PagesReserved | ReserveRefused | PrefixAwaited
Answer = ReserveAnswer | PagesReleased

MAX_RELEASED = 4096
"""Released requests whose answer is still known. A repeat is at most seconds late."""


class Answers:
    """The last answer about each request, and about the requests that were released last."""

    def __init__(self) -> None:
        self._last: dict[RequestId, Answer] = {}
        self._released: deque[PagesReleased] = deque()

    def about(self, request_id: RequestId) -> Answer | None:
        """Find the last answer about a request."""
        return self._last.get(request_id)

    def remember(self, answer: Answer) -> None:
        """Take an answer in the place of the request's last one."""
        self._last[answer.request_id] = answer
        if isinstance(answer, PagesReleased):
            self._released.append(answer)
        if len(self._released) > MAX_RELEASED:
            oldest = self._released.popleft()
            if self._last.get(oldest.request_id) is oldest:
                del self._last[oldest.request_id]
