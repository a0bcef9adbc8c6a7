"""What is in the sealed pages of one pool, and which pages are being filled with what."""

from collections.abc import Iterable, Sequence

from common.ids import PageId, RequestId
from common.messages.kv import HASH_BYTES


def split_hashes(page_hashes: bytes) -> tuple[bytes, ...]:
    """Cut a message's hashes into one per page."""
    return tuple(
        page_hashes[start : start + HASH_BYTES] for start in range(0, len(page_hashes), HASH_BYTES)
    )


class PrefixIndex:
    """Finds pages by the hash of their content, which covers all pages before them.

    A sealed page has one hash and a hash at most one page: a second page of equal content is not
    sealed, and goes with its request.
    """

    def __init__(self, num_pages: int) -> None:
        """Make an index of a pool in which nothing is sealed."""
        self._pages: dict[bytes, PageId] = {}
        self._hashes: list[bytes | None] = [None] * num_pages
        self._leaders: dict[bytes, RequestId] = {}

    def find(self, hashes: Sequence[bytes]) -> tuple[PageId, ...]:
        """Give the sealed pages of the longest prefix that is here."""
        found = []
        for page_hash in hashes:
            page = self._pages.get(page_hash)
            if page is None:
                break
            found.append(page)
        return tuple(found)

    def leader(self, hashes: Sequence[bytes], num_found: int) -> tuple[RequestId, int] | None:
        """Say who fills the pages behind those that were found, and how many pages there are then.

        Returns:
            None if nobody does.
        """
        leader, num_pages = None, num_found
        while num_pages < len(hashes) and hashes[num_pages] in self._leaders:
            leader = self._leaders[hashes[num_pages]]
            num_pages += 1
        return None if leader is None else (leader, num_pages)

    def is_sealed(self, page: PageId) -> bool:
        """Say whether a page must not be written any more."""
        return self._hashes[page] is not None

    def seal(self, page: PageId, page_hash: bytes) -> None:
        """Index a page by its content, unless another page is known for it."""
        if page_hash not in self._pages:
            self._pages[page_hash] = page
            self._hashes[page] = page_hash

    def unseal(self, page: PageId) -> None:
        """Forget what is in a page: it will be written again."""
        page_hash = self._hashes[page]
        assert page_hash is not None, f"page {page} is not sealed"
        del self._pages[page_hash]
        self._hashes[page] = None

    def promise(self, leader: RequestId, hashes: Iterable[bytes]) -> None:
        """Note that a request fills pages with this content; nobody else may do so by now."""
        self._leaders.update(dict.fromkeys(hashes, leader))

    def end_promise(self, leader: RequestId, hashes: Iterable[bytes]) -> None:
        """Note that a request has filled these pages, or never will."""
        for page_hash in hashes:
            if self._leaders.get(page_hash) == leader:
                del self._leaders[page_hash]

    def check(self, leaders: Iterable[RequestId]) -> None:
        """Assert that hashes and pages name each other, and that only these requests lead."""
        by_page = {page: page_hash for page, page_hash in enumerate(self._hashes) if page_hash}
        assert by_page == {page: page_hash for page_hash, page in self._pages.items()}
        assert set(self._leaders.values()) <= set(leaders), "a request leads that holds nothing"
