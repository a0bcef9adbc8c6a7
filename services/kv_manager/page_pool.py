"""The pages of one attention worker: which are free, and which request holds the others."""

from array import array
from collections.abc import Iterator
from typing import cast

from common.errors import OutOfPages
from common.ids import Epoch, PageId, RequestId, WorkerId
from common.policy.preemption import Holder


class PagePool:
    """Hands out the pages of one attention worker and takes them back.

    A page costs 4 bytes wherever it is: ids are kept in arrays, never as objects.

    Attributes:
        worker_id: The attention worker that has the pages.
        epoch: The life of it that is meant.
        num_pages: All pages, free or held.
        page_size: Tokens per page.
        expected_tokens: What the requests here will probably hold in the end.
    """

    def __init__(self, worker_id: WorkerId, epoch: Epoch, num_pages: int, page_size: int) -> None:
        self.worker_id = worker_id
        self.epoch = epoch
        self.num_pages = num_pages
        self.page_size = page_size
        self.expected_tokens = 0
        self._free = array("i", range(num_pages - 1, -1, -1))  # a stack, the lowest id on top
        self._tables: dict[RequestId, _Table] = {}

    @property
    def num_free(self) -> int:
        """Pages that nobody holds."""
        return len(self._free)

    @property
    def capacity_tokens(self) -> int:
        """Tokens that the pool holds when it is full."""
        return self.num_pages * self.page_size

    @property
    def free_tokens(self) -> int:
        """Tokens that fit into the free pages."""
        return len(self._free) * self.page_size

    def lacking(self, request_id: RequestId, num_tokens: int) -> int:
        """Count the pages that a request still lacks to hold `num_tokens`."""
        needed = -(-num_tokens // self.page_size)
        table = self._tables.get(request_id)
        return max(0, needed - (len(table.pages) if table else 0))

    def grow(
        self, request_id: RequestId, num_tokens: int, expected_tokens: int
    ) -> tuple[PageId, ...]:
        """Extend a request's table until it holds `num_tokens`.

        Args:
            request_id: Unknown ids start with an empty table.
            num_tokens: Tokens to hold in total.
            expected_tokens: Tokens that it will probably hold in the end.

        Returns:
            The pages added, in token order; empty if the table already reaches.

        Raises:
            OutOfPages: Too few pages are free. Nothing changed.
        """
        count = self.lacking(request_id, num_tokens)
        if count > len(self._free):
            raise OutOfPages(needed=count, free=len(self._free))
        top = len(self._free) - count
        pages = self._free[top:]
        pages.reverse()
        del self._free[top:]
        table = self._tables.setdefault(request_id, _Table())
        table.pages.extend(pages)
        table.num_tokens = max(table.num_tokens, num_tokens)
        self.expected_tokens += expected_tokens - table.expected_tokens
        table.expected_tokens = expected_tokens
        return cast("tuple[PageId, ...]", tuple(pages))

    def release(self, request_id: RequestId) -> None:
        """Take back all pages of a request that has a table here."""
        table = self._tables.pop(request_id)
        table.pages.reverse()
        self._free.extend(table.pages)
        self.expected_tokens -= table.expected_tokens

    def holders(self) -> Iterator[Holder]:
        """Go through the requests that have a table here."""
        for request_id, table in self._tables.items():
            yield Holder(
                request_id=request_id, num_tokens=table.num_tokens, num_pages=len(table.pages)
            )

    def check(self) -> None:
        """Assert that every page is free or held by exactly one request, and none is missing."""
        pages = list(self._free)
        for table in self._tables.values():
            assert len(table.pages) * self.page_size >= table.num_tokens, "a table is too short"
            pages.extend(table.pages)
        assert sorted(pages) == list(range(self.num_pages)), "pages granted + free != capacity"
        expected = sum(table.expected_tokens for table in self._tables.values())
        assert expected == self.expected_tokens, "the expected load does not add up"


class _Table:
    """A request's pages in token order, and what it was granted them for."""

    __slots__ = ("expected_tokens", "num_tokens", "pages")

    def __init__(self) -> None:
        self.pages = array("i")
        self.num_tokens = 0
        self.expected_tokens = 0
