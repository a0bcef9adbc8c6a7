"""The pages of one attention worker: who holds which of them, and what is in the sealed ones."""

from array import array
from collections import Counter
from collections.abc import Iterator, Sequence

from common.errors import OutOfPages
from common.ids import Epoch, PageId, RequestId, WorkerId
from common.messages import PageTable, PoolCount, ReservePages
from common.policy.preemption import Holder
from services.kv_manager.eviction import IdlePages
from services.kv_manager.prefix_index import PrefixIndex, split_hashes


class PagePool:
    """Hands out the pages of one attention worker and takes them back.

    A page is free; or held by exactly one request and not sealed; or sealed, and held by any number
    of requests. A sealed page that nobody holds is idle: it is kept until its place is needed.
    A page costs 24 bytes wherever it is, and some 150 more while it is sealed: ids are in arrays,
    never objects.

    Attributes:
        worker_id: The attention worker that has the pages.
        epoch: The life of it that is meant.
        num_pages: All pages.
        page_size: Tokens per page.
        load_tokens: What the requests here will probably hold in the end, shared or not.
        growth_pages: Pages that they will probably need beside those that they hold.
    """

    def __init__(self, worker_id: WorkerId, epoch: Epoch, num_pages: int, page_size: int) -> None:
        self.worker_id = worker_id
        self.epoch = epoch
        self.num_pages = num_pages
        self.page_size = page_size
        self.load_tokens = 0
        self.growth_pages = 0
        self._free = array("i", range(num_pages - 1, -1, -1))  # a stack, the lowest id on top
        self._num_holders = array("i", [0]) * num_pages
        self._num_shared = 0
        self._idle = IdlePages(num_pages)
        self._index = PrefixIndex(num_pages)
        self._tenants: dict[RequestId, _Tenant] = {}

    @property
    def is_empty(self) -> bool:
        """Nobody lives here."""
        return not self._tenants

    @property
    def num_available(self) -> int:
        """Pages that nobody holds."""
        return len(self._free) + len(self._idle)

    @property
    def capacity_tokens(self) -> int:
        """Tokens that the pool holds when it is full."""
        return self.num_pages * self.page_size

    def pages_for(self, num_tokens: int) -> int:
        """Count the pages that hold so many tokens."""
        return -(-num_tokens // self.page_size)

    def lacking(self, request_id: RequestId, num_tokens: int) -> int:
        """Count the pages that a request still lacks to hold `num_tokens`."""
        tenant = self._tenants.get(request_id)
        return max(0, self.pages_for(num_tokens) - (len(tenant.pages) if tenant else 0))

    def find(self, hashes: Sequence[bytes]) -> tuple[PageId, ...]:
        """Give the sealed pages of the longest prefix that is here."""
        return self._index.find(hashes)

    def leader(self, hashes: Sequence[bytes], num_found: int) -> tuple[RequestId, int] | None:
        """Say who fills the pages behind those that were found, and how many pages there are then."""
        return self._index.leader(hashes, num_found)

    def num_idle(self, pages: Sequence[PageId]) -> int:
        """Count those of some sealed pages that nobody holds."""
        return sum(not self._num_holders[page] for page in pages)

    def admit(
        self, wanted: ReservePages, found: tuple[PageId, ...], hashes: Sequence[bytes]
    ) -> tuple[PageId, ...]:
        """Let a request move in.

        Args:
            wanted: What it asks for.
            found: Sealed pages that it is to share.
            hashes: Of the pages that it shares or is to fill, from the first on.

        Returns:
            Its page table.

        Raises:
            OutOfPages: Too few pages are available. Nothing changed.
        """
        assert wanted.request_id not in self._tenants, "it lives here already"
        count = max(0, self.pages_for(wanted.num_tokens) - len(found))
        available = self.num_available - self.num_idle(found)
        if count > available:
            raise OutOfPages(needed=count, available=available)
        tenant = self._tenants[wanted.request_id] = _Tenant(hashes[len(found) :])
        self._index.promise(wanted.request_id, tenant.promised)
        for page in found:
            self._hold(page)
        tenant.pages.extend(found)
        tenant.pages.extend(self._take(count))
        self._expect(tenant, wanted)
        return tuple(map(PageId, tenant.pages))

    def grow(self, wanted: ReservePages) -> tuple[PageId, ...]:
        """Extend the table of a request that lives here until it holds `num_tokens`.

        Returns:
            The pages added, in token order; empty if the table already reaches.

        Raises:
            OutOfPages: Too few pages are available. Nothing changed.
        """
        count = self.lacking(wanted.request_id, wanted.num_tokens)
        if count > self.num_available:
            raise OutOfPages(needed=count, available=self.num_available)
        tenant = self._tenants[wanted.request_id]
        pages = self._take(count)
        self._forget_expectation(tenant)
        tenant.pages.extend(pages)
        self._expect(tenant, wanted)
        return pages

    def seal(self, request_id: RequestId, first_page: int, page_hashes: bytes) -> None:
        """Make pages of a request read-only, and let others find them."""
        tenant = self._tenants.get(request_id)
        if tenant is None:
            return
        hashes = split_hashes(page_hashes)
        for page, page_hash in zip(tenant.pages[first_page:], hashes, strict=False):
            if not self._index.is_sealed(PageId(page)):
                self._index.seal(PageId(page), page_hash)
        self._index.end_promise(request_id, hashes)

    def restore(self, tables: Sequence[PageTable]) -> None:
        """Give requests what they hold already; the tables must fit the pool, and it must be new."""
        assert len(self._free) == self.num_pages, "the pool was used before"
        holders = Counter(page for table in tables for page in table.pages)
        self._free = array("i", (page for page in self._free if page not in holders))
        for page, count in holders.items():
            self._num_holders[page] = count
            self._num_shared += count > 1
        for is_shared in (True, False):  # of equal pages one can be found: whichever others share
            for table in tables:
                sealed = zip(table.pages, split_hashes(table.page_hashes), strict=False)
                for page, page_hash in list(sealed)[: table.num_sealed]:
                    if (holders[page] > 1) is is_shared and not self._index.is_sealed(page):
                        self._index.seal(page, page_hash)
        for table in tables:
            self._settle(table)

    def _settle(self, table: PageTable) -> None:
        tenant = _Tenant(split_hashes(table.page_hashes)[table.num_sealed :])
        tenant.pages.extend(table.pages)
        self._tenants[table.request_id] = tenant
        self._index.promise(table.request_id, tenant.promised)
        self._expect(tenant, table)

    def release(self, request_id: RequestId) -> None:
        """Let a request that lives here go; what is sealed of its pages can still be found."""
        tenant = self._tenants.pop(request_id)
        self._forget_expectation(tenant)
        self._index.end_promise(request_id, tenant.promised)
        # Backwards: of a prefix the end is worth least, and is taken first.
        for page in reversed(tenant.pages):
            self._let_go(PageId(page))

    def release_all(self) -> None:
        """Let everybody go."""
        for request_id in list(self._tenants):
            self.release(request_id)

    def tenants(self) -> Iterator[RequestId]:
        """Go through the requests that live here."""
        return iter(self._tenants)

    def holders_younger_than(self, request_id: RequestId) -> Iterator[Holder]:
        """Go through the younger requests that live here, and what their release would cost and free."""
        for holder, tenant in self._tenants.items():
            if holder > request_id:
                num_own = sum(self._num_holders[page] == 1 for page in tenant.pages)
                num_kept = len(tenant.pages) - num_own
                yield Holder(
                    request_id=holder,
                    num_tokens=max(0, tenant.num_tokens - num_kept * self.page_size),
                    num_pages=num_own,
                )

    def count(self) -> PoolCount:
        """Say how many pages are free, held, shared and cached."""
        held = self.num_pages - self.num_available - self._num_shared
        return PoolCount(
            worker_id=self.worker_id,
            epoch=self.epoch,
            free=len(self._free),
            held=held,
            shared=self._num_shared,
            cached=len(self._idle),
        )

    def check(self) -> None:
        """Assert that every page is in exactly one of its states, and that all sums are right."""
        holders = [0] * self.num_pages
        for tenant in self._tenants.values():
            assert len(tenant.pages) >= self.pages_for(tenant.num_tokens), "a table is too short"
            assert len(set(tenant.pages)) == len(tenant.pages), "a page is in a table twice"
            for page in tenant.pages:
                holders[page] += 1
        assert holders == list(self._num_holders), "reference counts do not match the tables"
        sealed = {page for page in range(self.num_pages) if self._index.is_sealed(PageId(page))}
        assert all(count <= 1 for page, count in enumerate(holders) if page not in sealed), (
            "a page that is not sealed has two holders"
        )
        idle = list(self._idle)
        assert set(idle) == {page for page in sealed if not holders[page]}, "idle pages are wrong"
        held = [page for page, count in enumerate(holders) if count]
        assert sorted([*self._free, *idle, *held]) == list(range(self.num_pages)), (
            "pages granted + free + cached != capacity"
        )
        self._index.check(self._tenants)
        assert self._num_shared == sum(count > 1 for count in holders), "shared pages are wrong"
        tenants = self._tenants.values()
        assert self.load_tokens == sum(tenant.expected_tokens for tenant in tenants)
        assert self.growth_pages == sum(map(self._growth, tenants)), "the growth does not add up"

    def _take(self, count: int) -> tuple[PageId, ...]:
        num_evicted = max(0, count - len(self._free))
        for _ in range(num_evicted):
            page = self._idle.oldest()
            self._idle.remove(page)
            self._index.unseal(page)
            self._free.append(page)
        pages = [PageId(self._free.pop()) for _ in range(count)]
        for page in pages:
            self._num_holders[page] = 1
        return tuple(pages)

    def _hold(self, page: PageId) -> None:
        if not self._num_holders[page]:
            self._idle.remove(page)
        self._num_holders[page] += 1
        self._num_shared += self._num_holders[page] == 2

    def _let_go(self, page: PageId) -> None:
        self._num_holders[page] -= 1
        self._num_shared -= self._num_holders[page] == 1
        if self._num_holders[page]:
            return
        if self._index.is_sealed(page):
            self._idle.add(page)
        else:
            self._free.append(page)

    def _expect(self, tenant: "_Tenant", wanted: ReservePages | PageTable) -> None:
        tenant.num_tokens = max(tenant.num_tokens, wanted.num_tokens)
        tenant.expected_tokens = wanted.expected_tokens
        self.load_tokens += tenant.expected_tokens
        self.growth_pages += self._growth(tenant)

    def _forget_expectation(self, tenant: "_Tenant") -> None:
        self.load_tokens -= tenant.expected_tokens
        self.growth_pages -= self._growth(tenant)

    def _growth(self, tenant: "_Tenant") -> int:
        return max(0, self.pages_for(tenant.expected_tokens) - len(tenant.pages))


class _Tenant:
    """A request's pages in token order, and what it was granted them for."""

    __slots__ = ("expected_tokens", "num_tokens", "pages", "promised")

    def __init__(self, promised: Sequence[bytes]) -> None:
        self.pages = array("i")
        self.num_tokens = 0
        self.expected_tokens = 0
        self.promised = tuple(promised)
        """Hashes of pages that it was to fill when it moved in."""
