"""Writes outlast a full disk, each for itself."""

import anyio
import pytest

from common.errors import StoreFull
from services.router.store.full_disk import FullDisk

pytestmark = pytest.mark.anyio


class Write:
    """Is refused until there is room."""

    def __init__(self) -> None:
        self.has_room = False
        self.tries = 0

    async def __call__(self) -> None:
        self.tries += 1
        if not self.has_room:
            raise StoreFull("the disk is full")


async def test_a_write_that_finds_room_does_not_hide_one_that_waits() -> None:
    disk, waiting, other = FullDisk(), Write(), Write()
    other.has_room = True
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(disk.outlast, waiting)
        await anyio.wait_all_tasks_blocked()

        await disk.outlast(other)

        reason = disk.reason
        waiting.has_room = True
        disk.retry()
    assert reason == "the disk is full"
    assert (disk.reason, waiting.tries, other.tries) == (None, 2, 1)


async def test_a_write_that_is_given_up_no_longer_waits() -> None:
    disk = FullDisk()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(disk.outlast, Write())
        await anyio.wait_all_tasks_blocked()

        tasks.cancel_scope.cancel()

    assert disk.reason is None
