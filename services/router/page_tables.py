"""Who holds which pages, drawn up for a KV manager that knows of nobody."""

from collections.abc import Iterable
from typing import Final

from common.ids import PageId
from common.messages import PageTable, Tables
from common.messages.kv import HASH_BYTES, MAX_PAGE_HASHES
from services.router.page_hashes import hashes_between
from services.router.requests import Request

_MAX_PART_BYTES: Final = 1 << 19
"""Of one message, half of what an envelope may have."""
_PAGE_BYTES: Final = 5
_TABLE_BYTES: Final = 128


def draw_up(request: Request, page_size: int, expected_tokens: int) -> PageTable:
    """Say what a request holds that lives somewhere."""
    assert request.home is not None, "who lives nowhere has no table"
    num_pages = len(request.pages)
    num_hashes = min(len(request.page_hashes) // HASH_BYTES, num_pages, MAX_PAGE_HASHES)
    num_tokens = min(request.num_tokens, num_pages * page_size)
    return PageTable(
        request_id=request.request_id,
        worker_id=request.home.worker_id,
        epoch=request.home.epoch,
        pages=tuple(map(PageId, request.pages.tolist())),
        num_sealed=min(request.num_sealed, num_hashes),
        page_hashes=hashes_between(request, 0, num_hashes),
        num_tokens=num_tokens,
        expected_tokens=max(num_tokens, expected_tokens),
    )


def in_parts(number: int, tables: Iterable[PageTable]) -> list[Tables]:
    """Put tables into messages of a size that may be sent; none at all are one empty message."""
    parts: list[list[PageTable]] = [[]]
    room_bytes = _MAX_PART_BYTES
    for table in tables:
        size_bytes = _TABLE_BYTES + _PAGE_BYTES * len(table.pages) + len(table.page_hashes)
        if size_bytes > room_bytes and parts[-1]:
            parts.append([])
            room_bytes = _MAX_PART_BYTES
        parts[-1].append(table)
        room_bytes -= size_bytes
    return [
        Tables(number=number, part=part, num_parts=len(parts), tables=tuple(each))
        for part, each in enumerate(parts)
    ]
