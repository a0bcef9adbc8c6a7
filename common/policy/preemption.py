"""Who is to make room: requests that are the cheapest to compute again, and younger than the asker.

An older request never makes room for a younger one, so the oldest on a worker always comes to its
end and pressure cannot become a deadlock.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from common.ids import RequestId


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """A request that holds pages on the asker's worker."""

    request_id: RequestId
    """Requests with higher ids are younger."""
    num_tokens: int
    """Tokens to compute again if it is preempted."""
    num_pages: int
    """Pages that its release would free."""


def propose_victims(
    asker: RequestId, holders: Iterable[Holder], lacking: int
) -> tuple[RequestId, ...]:
    """Choose just enough requests to free `lacking` pages, the cheapest to redo first.

    Returns:
        The victims, best first; empty if all that are younger than the asker would not be enough.
    """
    younger = [holder for holder in holders if holder.request_id > asker]
    younger.sort(key=lambda holder: (holder.num_tokens, -holder.request_id))
    chosen, freed = [], 0
    for holder in younger:
        if freed >= lacking:
            break
        chosen.append(holder)
        freed += holder.num_pages
    if freed < lacking:
        return ()
    for holder in reversed(chosen.copy()):  # the dear ones may make cheap ones superfluous
        if freed - holder.num_pages >= lacking:
            chosen.remove(holder)
            freed -= holder.num_pages
    return tuple(holder.request_id for holder in chosen)
