"""What the KV manager costs: grants per second over the wire, and bytes per page.

    python -m benchmarks.kv_manager

The manager is a real process. This one is its router: it has one pool joined, and reserves and
releases as fast as it is answered, with so many questions open at once.
"""

import asyncio
import json
import subprocess
import sys
import tracemalloc
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import typer

from common.ids import ROUTER_ID, Endpoint, Epoch, RequestId, Term, WorkerId
from common.messages import (
    Hop,
    PagesFilled,
    PagesReleased,
    PagesReserved,
    Register,
    Registered,
    ReleasePages,
    ReservePages,
    Tables,
    TablesWanted,
    WorkerJoined,
    WorkerReady,
)
from common.messages.kv import HASH_BYTES, FilledPages
from common.runtime.counters import Counters
from common.runtime.effects import Send, Stop
from common.runtime.fence import RouterFence
from common.runtime.loop import ServiceLoop
from common.runtime.mailbox import Mailbox
from common.wire.limits import WireLimits
from common.wire.transport import Transport
from services.kv_manager.page_pool import PagePool

_PAGE_SIZE = 64
_PAGES_EACH = 16


class _Router:
    """Just enough of a router: lets the manager in, then asks and releases."""

    def __init__(self, num_grants: int, num_open: int, num_pages: int) -> None:
        self._num_grants = num_grants
        self._num_open = num_open
        self._num_pages = num_pages
        self._manager: Hop | None = None
        self._number = 0
        self._began_s = 0.0
        self.grants_per_s = 0.0

    def start(self, now: float) -> list[Any]:
        """Wait for the manager."""
        return []

    def handle(self, event: Any, now: float) -> list[Any]:
        """Take a message."""
        match event:
            case Register():
                self._manager = Hop(
                    worker_id=event.worker_id, endpoint=event.endpoint, epoch=event.epoch
                )
                return [self._say(Registered(layers=None, attention=None, heartbeat_s=60.0))]
            case TablesWanted():
                return [self._say(Tables(number=0, part=0, num_parts=1, tables=()))]
            case WorkerReady():
                self._began_s = now
                joined = WorkerJoined(
                    worker_id=WorkerId("pool"),
                    epoch=Epoch(1),
                    num_pages=self._num_pages,
                    page_size=_PAGE_SIZE,
                )
                return [self._say(joined), *(self._reserve() for _ in range(self._num_open))]
            case PagesReserved():
                return [self._say(self._filled(event)), self._say(self._release(event))]
            case PagesReleased() if self._number < 3 * self._num_grants:
                return [self._reserve()]
            case PagesReleased():
                self.grants_per_s = self._number / 3 / (now - self._began_s)
                return [Stop("measured")]
        return []

    def _say(self, message: Any) -> Send:
        assert self._manager is not None
        return Send(self._manager, message)

    def _next(self) -> int:
        self._number += 1
        return self._number

    def _reserve(self) -> Send:
        number = self._next()
        return self._say(
            ReservePages(
                number=number,
                request_id=RequestId(number),
                moves_in=True,
                num_tokens=_PAGES_EACH * _PAGE_SIZE,
                expected_tokens=_PAGES_EACH * _PAGE_SIZE,
                max_tokens=_PAGES_EACH * _PAGE_SIZE,
                page_hashes=_hashes(number),
            )
        )

    def _filled(self, grant: PagesReserved) -> PagesFilled:
        filled = FilledPages(
            request_id=grant.request_id, first_page=0, page_hashes=_hashes(grant.request_id)
        )
        return PagesFilled(number=self._next(), filled=(filled,))

    def _release(self, grant: PagesReserved) -> ReleasePages:
        return ReleasePages(number=self._next(), request_id=grant.request_id)


def _hashes(number: int) -> bytes:
    return b"".join(
        (number * _PAGES_EACH + page).to_bytes(HASH_BYTES, "little") for page in range(_PAGES_EACH)
    )


def main(grants: int = 10_000, open_at_once: int = 64, pages: int = 1_000_000) -> None:
    """Print the figures as one line of JSON."""
    with TemporaryDirectory() as name:
        rate = _grants_per_s(Path(name), _Router(grants, open_at_once, pages))
    figures = {
        "grants_per_s": round(rate),
        "pages_per_grant": _PAGES_EACH,
        "bytes_per_page_held": round(_bytes_per_page(pages, sealed=False), 1),
        "bytes_per_page_sealed": round(_bytes_per_page(pages, sealed=True), 1),
    }
    print(json.dumps(figures))


def _grants_per_s(folder: Path, router: _Router) -> float:
    """Let every grant be sealed and released; each is three messages to the manager."""
    endpoint = Endpoint(f"ipc://{folder}/router")
    transport = Transport(
        bind=endpoint,
        worker_id=ROUTER_ID,
        epoch=Epoch(0),
        limits=WireLimits(),
        locksmith=None,
    )
    loop = ServiceLoop(lambda _: router, Mailbox(transport, RouterFence(Term(1)), Counters()))
    command = [sys.executable, "-m", "services.kv_manager", "--die-with-parent"]
    options = ["--bind", f"ipc://{folder}/manager", "--router-endpoint", endpoint]
    manager = subprocess.Popen([*command, *options], stderr=subprocess.DEVNULL)
    try:
        asyncio.run(asyncio.wait_for(loop.run(), 120))
    finally:
        manager.terminate()
        manager.wait()
    return router.grants_per_s


def _bytes_per_page(num_pages: int, *, sealed: bool) -> float:
    tracemalloc.start()
    pool = PagePool(WorkerId("pool"), Epoch(1), num_pages, _PAGE_SIZE)
    _fill(pool, num_pages // _PAGES_EACH, sealed=sealed)
    size_bytes, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return size_bytes / num_pages


def _fill(pool: PagePool, num_requests: int, *, sealed: bool) -> None:
    num_tokens = _PAGES_EACH * _PAGE_SIZE
    for number in range(num_requests):
        wanted = ReservePages(
            number=number,
            request_id=RequestId(number),
            moves_in=True,
            num_tokens=num_tokens,
            expected_tokens=num_tokens,
            max_tokens=num_tokens,
            page_hashes=b"",
        )
        pool.admit(wanted, (), ())
        if sealed:
            pool.seal(wanted.request_id, 0, _hashes(number))


if __name__ == "__main__":
    typer.run(main)
