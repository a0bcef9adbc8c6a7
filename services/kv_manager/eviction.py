"""The sealed pages that nobody holds, in the order in which they may be taken."""

from array import array
from collections.abc import Iterator

from common.ids import PageId


class IdlePages:
    """A doubly linked list through the pages, the one unused for the longest first.

    The links are in arrays, 8 bytes a page, whatever the order in which pages come and go.
    """

    def __init__(self, num_pages: int) -> None:
        """Make an empty list for pages below `num_pages`."""
        self._ends = num_pages
        """A node that is no page, before the first and behind the last one."""
        self._next = array("i", [0]) * (num_pages + 1)
        self._previous = array("i", [0]) * (num_pages + 1)
        self._next[num_pages] = self._previous[num_pages] = num_pages
        self._num_pages = 0

    def __len__(self) -> int:
        return self._num_pages

    def add(self, page: PageId) -> None:
        """Append a page that was just let go; it must not be in the list."""
        last = self._previous[self._ends]
        self._next[last], self._previous[page] = page, last
        self._next[page], self._previous[self._ends] = self._ends, page
        self._num_pages += 1

    def remove(self, page: PageId) -> None:
        """Take out a page that is used again; it must be in the list."""
        before, behind = self._previous[page], self._next[page]
        self._next[before], self._previous[behind] = behind, before
        self._num_pages -= 1

    def oldest(self) -> PageId:
        """Give the page that was unused for the longest; the list must not be empty."""
        assert self._num_pages, "no page is idle"
        return PageId(self._next[self._ends])

    def __iter__(self) -> Iterator[PageId]:
        page = self._next[self._ends]
        while page != self._ends:
            yield PageId(page)
            page = self._next[page]
