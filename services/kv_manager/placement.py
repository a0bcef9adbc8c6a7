"""Which request lives on which attention worker, and what its worker's pool has granted it."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from common.errors import OutOfPages
from common.ids import Epoch, PageId, RequestId, WorkerId
from common.messages import (
    PagesFilled,
    PagesReserved,
    PageTable,
    PoolCount,
    PrefixAwaited,
    ReservePages,
    ReserveRefused,
    WorkerJoined,
    WorkerSpeed,
)
from common.policy.admission import may_move_in
from common.policy.placement import place
from common.policy.preemption import propose_victims
from services.kv_manager.answers import ReserveAnswer
from services.kv_manager.page_pool import PagePool
from services.kv_manager.prefix_index import split_hashes
from services.kv_manager.tables import are_of_different_requests, fit


@dataclass(slots=True)
class _House:
    """An attention worker's pool, and who may move in."""

    pool: PagePool
    is_member: bool = True
    """The router of this term has named it."""
    is_leaving: bool = False
    tokens_per_s: float | None = None
    hungry: set[RequestId] = field(default_factory=set)
    """Those who live there and lack pages: before them nobody moves in."""


@dataclass(frozen=True, slots=True)
class _Offer:
    """What a pool would be for a request that lives nowhere yet."""

    pool: PagePool
    found: tuple[PageId, ...]
    leader: tuple[RequestId, int] | None
    tokens_per_s: float

    @property
    def worker_id(self) -> WorkerId:
        return self.pool.worker_id

    @property
    def load_tokens(self) -> int:
        return self.pool.load_tokens

    @property
    def found_tokens(self) -> int:
        num_pages = self.leader[1] if self.leader else len(self.found)
        return num_pages * self.pool.page_size


class Placement:
    """The pools of all attention workers. A request lives in one of them, for all layers."""

    def __init__(self) -> None:
        self._houses: dict[WorkerId, _House] = {}
        self._homes: dict[RequestId, _House] = {}
        self._ended: set[tuple[WorkerId, Epoch]] = set()
        """Pools that were lost in this term: a late word about them brings none of them back."""
        self._largest_tokens = 0
        """Of any pool of this term: a lost one may come back."""

    def join(self, joined: WorkerJoined) -> bool:
        """Add a worker's pool; a new epoch of a known worker is the loss of its old pool.

        Returns:
            Whether the router had not named it yet in this term.
        """
        if (joined.worker_id, joined.epoch) in self._ended:
            return False
        house = self._houses.get(joined.worker_id)
        if house and not _is_of(house.pool, joined):
            self._forget(house)
            house = None
        is_new = house is None or not house.is_member
        if house is None:
            pool = PagePool(joined.worker_id, joined.epoch, joined.num_pages, joined.page_size)
            house = self._houses[joined.worker_id] = _House(pool)
        house.is_member = True
        self._largest_tokens = max(self._largest_tokens, house.pool.capacity_tokens)
        return is_new

    def lose(self, worker_id: WorkerId, epoch: Epoch) -> bool:
        """Forget a worker's pool and the tables in it.

        Returns:
            Whether there was a pool of this epoch.
        """
        self._ended.add((worker_id, epoch))
        house = self._of_epoch(worker_id, epoch)
        if house is None:
            return False
        self._forget(house)
        return True

    def close(self, worker_id: WorkerId, epoch: Epoch) -> None:
        """Place nobody there any more; those who live there may stay and grow."""
        if (house := self._of_epoch(worker_id, epoch)) is not None:
            house.is_leaving = True

    def begin_term(self) -> None:
        """Let everybody go; what is sealed stays, for the workers that the new router names."""
        self._let_all_go()
        self._ended.clear()
        self._largest_tokens = 0
        for house in self._houses.values():
            house.is_member = house.is_leaving = False

    def _let_all_go(self) -> None:
        self._homes.clear()
        for house in self._houses.values():
            house.pool.release_all()
            house.hungry.clear()

    def restore(self, tables: Sequence[PageTable]) -> bool:
        """Go on from what requests hold already; nothing else is held, and nothing else is known.

        Returns:
            Whether that can be; if not, because a pool was not named yet or the tables contradict
            each other, nothing has changed.
        """
        found: dict[WorkerId, list[PageTable]] = defaultdict(list)
        for table in tables:
            if (table.worker_id, table.epoch) in self._ended:
                continue  # its requests move in elsewhere: the router knows of the loss
            if self._of_epoch(table.worker_id, table.epoch) is None:
                return False
            found[table.worker_id].append(table)
        pools = {worker_id: self._houses[worker_id].pool for worker_id in found}
        if not are_of_different_requests(tables) or not all(
            fit(found[worker_id], pool.num_pages, pool.page_size)
            for worker_id, pool in pools.items()
        ):
            return False
        self._let_all_go()
        for worker_id, pool in pools.items():
            house = self._houses[worker_id]
            house.pool = PagePool(worker_id, pool.epoch, pool.num_pages, pool.page_size)
            house.pool.restore(found[worker_id])
            self._homes.update(dict.fromkeys(house.pool.tenants(), house))
        return True

    def take_speeds(self, speeds: Iterable[WorkerSpeed]) -> None:
        """Place by these measured speeds from now on."""
        for speed in speeds:
            if (house := self._of_epoch(speed.worker_id, speed.epoch)) is not None:
                house.tokens_per_s = speed.tokens_per_s

    def reserve(self, wanted: ReservePages) -> ReserveAnswer:
        """Grant what a request lacks where it lives, or find it a place to live.

        Returns:
            The grant; or a refusal, or whom it has to wait for: then nothing has changed.
        """
        if wanted.moves_in:
            self.release(wanted.request_id)
        house = self._homes.get(wanted.request_id)
        return self._move_in(wanted) if house is None else self._grow(house, wanted)

    def seal(self, message: PagesFilled, request_ids: Iterable[RequestId]) -> None:
        """Seal what these requests have filled."""
        wanted = set(request_ids)
        for filled in message.filled:
            house = self._homes.get(filled.request_id)
            if house and filled.request_id in wanted:
                house.pool.seal(filled.request_id, filled.first_page, filled.page_hashes)

    def release(self, request_id: RequestId) -> None:
        """Let go of all pages of a request; one that lives nowhere is released already."""
        house = self._homes.pop(request_id, None)
        if house:
            house.pool.release(request_id)
            house.hungry.discard(request_id)

    def count(self) -> tuple[PoolCount, ...]:
        """Say how full the pools are."""
        return tuple(house.pool.count() for house in self._members())

    def check(self) -> None:
        """Assert that every pool's pages add up, and that each request has exactly one home."""
        homes: dict[RequestId, WorkerId] = {}
        for house in self._houses.values():
            house.pool.check()
            for request_id in house.pool.tenants():
                assert request_id not in homes, "a request lives on two workers"
                homes[request_id] = house.pool.worker_id
            assert house.hungry <= set(house.pool.tenants()), "a stranger is hungry"
        assert homes == {each: house.pool.worker_id for each, house in self._homes.items()}

    def _forget(self, house: _House) -> None:
        self._ended.add((house.pool.worker_id, house.pool.epoch))
        del self._houses[house.pool.worker_id]
        for request_id in house.pool.tenants():
            del self._homes[request_id]

    def _of_epoch(self, worker_id: WorkerId, epoch: Epoch) -> _House | None:
        house = self._houses.get(worker_id)
        return house if house and house.pool.epoch == epoch else None

    def _members(self) -> list[_House]:
        return [house for house in self._houses.values() if house.is_member]

    # Those who live somewhere

    def _grow(self, house: _House, wanted: ReservePages) -> ReserveAnswer:
        try:
            new_pages = house.pool.grow(wanted)
        except OutOfPages as lack:
            house.hungry.add(wanted.request_id)
            younger = house.pool.holders_younger_than(wanted.request_id)
            victims = propose_victims(wanted.request_id, younger, lack.needed - lack.available)
            return _refusal(wanted, lack, victims=victims)
        house.hungry.discard(wanted.request_id)
        return _grant(wanted, house.pool, new_pages, num_found=0)

    # Those who live nowhere yet

    def _move_in(self, wanted: ReservePages) -> ReserveAnswer:
        hashes = split_hashes(wanted.page_hashes)
        members = self._members()
        speeds = [house.tokens_per_s for house in members if house.tokens_per_s is not None]
        usual = sum(speeds) / len(speeds) if speeds else 1.0
        offers = [self._offer(house, wanted, hashes, usual) for house in members]
        offer = place([each for each in offers if each is not None], wanted.expected_tokens)
        if offer is None:
            return self._no_room(wanted)
        if offer.leader is not None:
            leader, num_pages = offer.leader
            return PrefixAwaited(
                number=wanted.number,
                request_id=wanted.request_id,
                leader=leader,
                num_pages=num_pages,
            )
        pages = offer.pool.admit(wanted, offer.found, hashes)
        self._homes[wanted.request_id] = self._houses[offer.worker_id]
        return _grant(wanted, offer.pool, pages, num_found=len(offer.found))

    def _offer(
        self, house: _House, wanted: ReservePages, hashes: tuple[bytes, ...], usual: float
    ) -> _Offer | None:
        pool = house.pool
        if house.is_leaving or house.hungry or wanted.max_tokens > pool.capacity_tokens:
            return None
        found = pool.find(hashes)
        held = max(len(found), pool.pages_for(wanted.num_tokens))
        if not may_move_in(
            lacking=held - len(found),
            available=pool.num_available - pool.num_idle(found),
            growth=pool.growth_pages + max(0, pool.pages_for(wanted.expected_tokens) - held),
            is_empty=pool.is_empty,
        ):
            return None
        leader = pool.leader(hashes, len(found))
        return _Offer(pool, found, leader, house.tokens_per_s or usual)

    def _no_room(self, wanted: ReservePages) -> ReserveRefused:
        pools = [house.pool for house in self._members()]
        fits_never = bool(pools) and wanted.max_tokens > self._largest_tokens
        roomiest = max(pools, key=lambda pool: pool.num_available, default=None)
        num_tokens = wanted.max_tokens if fits_never else wanted.num_tokens
        lack = OutOfPages(
            needed=roomiest.pages_for(num_tokens) if roomiest else 1,
            available=roomiest.num_available if roomiest else 0,
        )
        return _refusal(wanted, lack, fits_never=fits_never)


def _is_of(pool: PagePool, joined: WorkerJoined) -> bool:
    described = (pool.epoch, pool.num_pages, pool.page_size)
    return described == (joined.epoch, joined.num_pages, joined.page_size)


def _grant(
    wanted: ReservePages, pool: PagePool, new_pages: tuple[PageId, ...], num_found: int
) -> PagesReserved:
    return PagesReserved(
        number=wanted.number,
        request_id=wanted.request_id,
        worker_id=pool.worker_id,
        epoch=pool.epoch,
        new_pages=new_pages,
        num_found=num_found,
    )


def _refusal(
    wanted: ReservePages,
    lack: OutOfPages,
    *,
    victims: tuple[RequestId, ...] = (),
    fits_never: bool = False,
) -> ReserveRefused:
    return ReserveRefused(
        number=wanted.number,
        request_id=wanted.request_id,
        needed=lack.needed,
        available=lack.available,
        fits_never=fits_never,
        victims=victims,
    )
