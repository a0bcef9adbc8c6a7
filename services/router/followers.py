"""Requests that wait until another one has sealed the pages that they share."""

from dataclasses import dataclass, field

from common.ids import RequestId
from services.router.requests import Request, Requests, Standing


@dataclass(slots=True)
class Followers:
    """Who follows whom, and how far."""

    requests: Requests
    _following: dict[RequestId, list[tuple[int, Request]]] = field(default_factory=dict)
    """By leader: the pages that must be sealed, and who waits for them."""

    def follow(self, request: Request, leader: Request, num_pages: int) -> None:
        """Let a request wait until its leader has sealed so many pages."""
        self.requests.move(request, Standing.FOLLOWING)
        self._following.setdefault(leader.request_id, []).append((num_pages, request))

    def wake(self, leader: RequestId, num_sealed: int | None = None) -> None:
        """Let followers ask again: those who wait for no more pages than these, or all of them."""
        following = self._following.pop(leader, [])
        still = [each for each in following if num_sealed is not None and each[0] > num_sealed]
        if still:
            self._following[leader] = still
        patient = self.requests.by_standing[Standing.FOLLOWING]  # some may have been cancelled
        self.requests.put_back(
            [each[1] for each in following if each not in still and each[1].request_id in patient]
        )
