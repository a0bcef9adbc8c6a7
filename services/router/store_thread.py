"""The job store on a thread of its own, so that the router's loop never waits for the disk."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

from common.ids import Term
from services.router.job_store import JobStore

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


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
        """Run a method of the store; when it returns, what it did is durable."""
        work = partial(method, self._store, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def close(self) -> None:
        """Finish what was asked, close the store and end the thread."""
        self._thread.submit(self._store.close).result()
        self._thread.shutdown()
