"""Who held what before this life of the KV manager, as the router tells it part by part."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from common.ids import PageId
from common.messages import PageTable, Tables
from services.kv_manager.prefix_index import split_hashes


class Parts:
    """Puts one answer of the router together; a later answer takes the place of an earlier one."""

    def __init__(self) -> None:
        self._number = 0
        self._parts: dict[int, Tables] = {}

    def add(self, part: Tables) -> tuple[PageTable, ...] | None:
        """Take a part; give all tables of its answer once they are there."""
        if part.number < self._number:
            return None
        if part.number > self._number:
            self._number, self._parts = part.number, {}
        self._parts[part.part] = part
        if len(self._parts) < part.num_parts:
            return None
        return tuple(table for each in self._parts.values() for table in each.tables)


def fit(tables: Sequence[PageTable], num_pages: int, page_size: int) -> bool:
    """Say whether a pool can be as these tables have it: nobody writes where another reads."""
    return all(_fits(table, num_pages, page_size) for table in tables) and not _contradict(tables)


def are_of_different_requests(tables: Iterable[PageTable]) -> bool:
    """Say whether every request has one table."""
    return max(Counter(table.request_id for table in tables).values(), default=0) <= 1


def _fits(table: PageTable, num_pages: int, page_size: int) -> bool:
    pages = table.pages
    return (
        len(set(pages)) == len(pages)
        and max(pages, default=0) < num_pages
        and table.num_tokens <= len(pages) * page_size
    )


def _contradict(tables: Sequence[PageTable]) -> bool:
    """Say whether a page would be with two requests that do not both read the same in it."""
    contents: dict[PageId, set[bytes | int]] = defaultdict(set)
    for table in tables:
        hashes = split_hashes(table.page_hashes)
        for place, page in enumerate(table.pages):
            contents[page].add(hashes[place] if place < table.num_sealed else table.request_id)
    return any(len(each) > 1 for each in contents.values())
