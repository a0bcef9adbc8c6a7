"""The job store on a thread of its own, so that the router's loop never waits for the disk."""

import asyncio
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Concatenate, Final, ParamSpec, TypeVar

from common.errors import StoreFull
from common.ids import Term
from services.router.store.job_store import JobStore

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

_ABOUT_THE_DISK: Final = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)
_PRIMARY_CODE: Final = 0xFF
"""SQLite says more in the higher bits."""


class StoreThread:
    """Does one thing after the other, in the order asked."""

    def __init__(self, directory: Path) -> None:
        """Open the store.

        Raises:
            SettingsError: The data directory is in use, or cannot be used.
        """
        self._thread = ThreadPoolExecutor(1, "job-store")
        try:
            self._store = self._thread.submit(JobStore, directory).result()
        except BaseException:
            self._thread.shutdown()
            raise

    @property
    def term(self) -> Term:
        """This life of the router."""
        return self._store.term

    async def call(
        self,
        method: Callable[Concatenate[JobStore, Arguments], Result],
        *args: Arguments.args,
        **kwargs: Arguments.kwargs,
    ) -> Result:
        """Run a method of the store; when it returns, what it did is durable.

        Raises:
            StoreFull: The disk takes nothing more.
        """
        work = partial(method, self._store, *args, **kwargs)
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & _PRIMARY_CODE not in _ABOUT_THE_DISK:
                raise
            message = f"the job store in {self._store.directory} cannot be written: {error}"
            raise StoreFull(message) from error

    def close(self) -> None:
        """Finish what was asked, close the store and end the thread."""
        self._thread.submit(self._store.close).result()
        self._thread.shutdown()
