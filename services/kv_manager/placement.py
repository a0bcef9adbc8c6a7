"""Which request lives on which attention worker, and what its worker's pool has granted it."""

from common.errors import OutOfPages
from common.ids import Epoch, RequestId, WorkerId
from common.messages import PagesReserved, ReservePages, ReserveRefused, WorkerJoined
from common.policy.placement import place
from common.policy.preemption import propose_victims
from services.kv_manager.page_pool import PagePool


class Placement:
    """The pools of all attention workers. A request lives in one of them, for all layers."""

    def __init__(self) -> None:
        self._pools: dict[WorkerId, PagePool] = {}
        self._homes: dict[RequestId, PagePool] = {}
        self._ended: set[tuple[WorkerId, Epoch]] = set()
        """Pools that were lost in this term: a late word about them brings none of them back."""
        self._largest_tokens = 0
        """Of any pool of this term: a lost one may come back."""

    def join(self, joined: WorkerJoined) -> bool:
        """Add a worker's pool; a new epoch of a known worker is the loss of its old pool.

        Returns:
            Whether the pool is new.
        """
        known = self._pools.get(joined.worker_id)
        if known and known.epoch == joined.epoch:
            return False
        if (joined.worker_id, joined.epoch) in self._ended:
            return False
        if known:
            self.lose(known.worker_id, known.epoch)
        self._pools[joined.worker_id] = PagePool(
            joined.worker_id, joined.epoch, joined.num_pages, joined.page_size
        )
        capacity_tokens = self._pools[joined.worker_id].capacity_tokens
        self._largest_tokens = max(self._largest_tokens, capacity_tokens)
        return True

    def lose(self, worker_id: WorkerId, epoch: Epoch) -> bool:
        """Forget a worker's pool and the tables in it.

        Returns:
            Whether there was a pool of this epoch.
        """
        self._ended.add((worker_id, epoch))
        pool = self._pools.get(worker_id)
        if pool is None or pool.epoch != epoch:
            return False
        del self._pools[worker_id]
        for holder in pool.holders():
            del self._homes[holder.request_id]
        return True

    def reserve(self, wanted: ReservePages) -> PagesReserved | ReserveRefused:
        """Grant what a request lacks where it lives, or find it a place to live.

        Returns:
            The grant, or the refusal, which has changed nothing.
        """
        pool = self._homes.get(wanted.request_id) or place(
            self._pools.values(), wanted.num_tokens, wanted.expected_tokens
        )
        if pool is None:
            return self._refusal(wanted)
        try:
            new_pages = pool.grow(wanted.request_id, wanted.num_tokens, wanted.expected_tokens)
        except OutOfPages:
            return self._refusal(wanted)
        self._homes[wanted.request_id] = pool
        return PagesReserved(
            number=wanted.number,
            request_id=wanted.request_id,
            worker_id=pool.worker_id,
            epoch=pool.epoch,
            new_pages=new_pages,
        )

    def release(self, request_id: RequestId) -> None:
        """Free all pages of a request; one that lives nowhere is released already."""
        pool = self._homes.pop(request_id, None)
        if pool:
            pool.release(request_id)

    def check(self) -> None:
        """Assert that every pool's pages add up, and that each request has exactly one home."""
        homes: dict[RequestId, PagePool] = {}
        for pool in self._pools.values():
            pool.check()
            for holder in pool.holders():
                assert holder.request_id not in homes, "a request lives on two workers"
                homes[holder.request_id] = pool
        assert homes == self._homes, "a request's home does not hold it"

    def _refusal(self, wanted: ReservePages) -> ReserveRefused:
        pools = self._pools.values()
        home = self._homes.get(wanted.request_id)
        pool = home or max(pools, key=lambda pool: pool.free_tokens, default=None)
        needed = pool.lacking(wanted.request_id, wanted.num_tokens) if pool else 1
        fits_never = bool(pools) and wanted.num_tokens > self._largest_tokens
        return ReserveRefused(
            number=wanted.number,
            request_id=wanted.request_id,
            needed=needed,
            free=pool.num_free if pool else 0,
            fits_never=fits_never,
            victims=_victims(wanted, home, needed) if home and not fits_never else (),
        )


def _victims(wanted: ReservePages, home: PagePool, needed: int) -> tuple[RequestId, ...]:
    if wanted.num_tokens > home.capacity_tokens:
        return (wanted.request_id,)  # outgrew its worker: only moving to a larger one helps
    return propose_victims(wanted.request_id, home.holders(), needed - home.num_free)
