"""Which links between workers lost something: too often in a row, and the far end loses its place."""

from collections import Counter
from collections.abc import Iterable
from itertools import pairwise

from common.ids import WorkerId
from common.messages import Route

Link = tuple[WorkerId, WorkerId]
"""From a layer worker to the attention worker or the next range's layer worker."""

_MAX_BLAMES = 2


class Blames:
    """Microbatches that failed over each link since one last came home over it."""

    def __init__(self) -> None:
        self._counts: Counter[Link] = Counter()

    def add(self, links: Iterable[Link]) -> list[WorkerId]:
        """Note that a microbatch failed over links; give the far ends of those that fail again."""
        links = set(links)
        self._counts.update(links)
        return sorted({link[1] for link in links if self._counts[link] >= _MAX_BLAMES})

    def count(self, link: Link) -> int:
        """Count the microbatches that failed over a link in a row."""
        return self._counts[link]

    def praise(self, route: Route) -> None:
        """Note that a microbatch came home this way."""
        if self._counts:
            for link in (*range_links(route), *shard_links(route)):
                self._counts.pop(link, None)

    def forget(self, worker_id: WorkerId) -> None:
        """Forget a worker whose life is over."""
        for link in [link for link in self._counts if worker_id in link]:
            del self._counts[link]


def range_links(route: Route) -> list[Link]:
    """List the links between the ranges of a route."""
    return list(pairwise(hop.worker_id for hop in route.layer_workers))


def shard_links(route: Route) -> list[Link]:
    """List the links from the ranges of a route to its attention workers."""
    return [
        (hop.worker_id, shard.worker.worker_id)
        for hop in route.layer_workers
        for shard in route.shards
    ]
