"""The bookkeeper keeps the accounts of the jobs that run, and has them on disk when they have ended.

Workers tell their figures by heartbeat, so an account is closed when each has told them once more
after the job's end.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from pydantic import TypeAdapter

from common.errors import StoreFull
from common.ids import JobId
from services.router.job_account import JobAccount, JobReport, LineCounts, Status
from services.router.store.job_records import Job
from services.router.store.job_store import JobStore
from services.router.store.store_thread import StoreThread

_LOOK_INTERVAL_S: Final = 0.5
_SAVE_INTERVAL_S: Final = 30.0
_MAX_LATE_LOOKS: Final = 6
"""After a job's end; a worker that is silent for longer is about to be lost."""

_ACCOUNT: Final = TypeAdapter(JobAccount)


@dataclass(slots=True)
class _Open:
    """An account that is not closed."""

    account: JobAccount
    heard: Mapping[int, float] | None = None
    """When each worker, by epoch, had been heard as the job ended; None while it runs."""
    late_looks: int = 0
    complete: bool = False
    """All is in it; it may still have to wait for room on the disk."""


class Bookkeeper:
    """Looks at the cluster at intervals, as long as a job runs."""

    def __init__(
        self,
        store: StoreThread,
        look: Callable[[], Status],
        prices: Mapping[str, float],
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Look at nothing yet.

        Args:
            store: Open.
            look: Gives the cluster's status.
            prices: What a worker costs per hour, by role.
            clock: Unix seconds.
        """
        self._store = store
        self._look = look
        self._prices = prices
        self._clock = clock
        self._open: dict[JobId, _Open] = {}
        self._seen: Status = {}
        self._seen_at = self._saved_at = clock()

    async def run(self) -> None:
        """Keep all accounts."""
        while True:
            await asyncio.sleep(_LOOK_INTERVAL_S)
            await self.turn()

    async def begin(self, job_id: JobId) -> None:
        """Take a job's account up, that of an earlier life if there is one; again does nothing."""
        if job_id in self._open:
            return
        if not self._open:
            self._seen, self._seen_at = self._look(), self._clock()
        kept = await self._store.call(JobStore.account, job_id)
        each = _Open(_ACCOUNT.validate_json(kept) if kept else JobAccount())
        self._open[job_id] = each
        await self._save(job_id, each.account)  # else a crash could leave an ended job without one

    async def turn(self) -> None:
        """Look at the cluster, and close the accounts of jobs that have ended."""
        if not self._open:
            return
        before, before_s = self._seen, self._seen_at
        self._seen, self._seen_at = now, now_s = self._look(), self._clock()
        save = now_s - self._saved_at > _SAVE_INTERVAL_S
        for job_id, each in list(self._open.items()):
            if not each.complete:
                job = await self._store.call(JobStore.job, job_id)
                ended_at = job.ended_at if job is not None else now_s
                until_s = now_s if ended_at is None else min(ended_at, now_s)
                each.account.add(before, now, max(until_s - before_s, 0.0), self._prices)
                each.complete = ended_at is not None and _all_told(each, now)
            if (each.complete or save) and await self._save(job_id, each.account) and each.complete:
                del self._open[job_id]
        if save:
            self._saved_at = now_s

    async def flush(self) -> None:
        """Keep all accounts on disk, at the end of an orderly life."""
        for job_id, each in self._open.items():
            await self._save(job_id, each.account)

    async def report(self, job: Job) -> JobReport | None:
        """Sum a job up as far as it is; None before it begins, and until an ended one's account is complete."""
        each = self._open.get(job.job_id)
        if each is not None and job.ended_at is not None and not each.complete:
            return None
        kept = None if each else await self._store.call(JobStore.account, job.job_id)
        if each is None and not kept:
            return None
        account = each.account if each else _ACCOUNT.validate_json(kept or "")
        return account.report(
            LineCounts(
                rows=job.num_completed + job.num_failed,
                failed=job.num_failed,
                prompt_tokens=job.prompt_tokens,
                generated_tokens=job.generated_tokens,
            )
        )

    async def _save(self, job_id: JobId, account: JobAccount) -> bool:
        """Write an account to the disk; False if it has no room now."""
        try:
            await self._store.call(
                JobStore.save_account, job_id, _ACCOUNT.dump_json(account).decode()
            )
        except StoreFull:
            return False  # the desk tells of it
        return True


def _all_told(each: _Open, now: Status) -> bool:
    """Whether every worker has told its figures after the job's end."""
    heard = {worker["epoch"]: worker["last_heard_s"] for worker in now["workers"]}
    if each.heard is None:
        each.heard = heard
        return False
    each.late_looks += 1
    waits = any(each.heard.get(epoch) == told_s for epoch, told_s in heard.items())
    return not waits or each.late_looks > _MAX_LATE_LOOKS
