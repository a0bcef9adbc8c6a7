"""The accounts of jobs on disk: one text per job. A part of the job store."""

import sqlite3
from typing import Final

from common.ids import JobId

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS accounts (job_id TEXT PRIMARY KEY, account TEXT NOT NULL);
"""


class AccountTable:
    """Reads and writes accounts as their owner spells them."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def save(self, job_id: JobId, account: str) -> None:
        """Keep a job's account instead of an earlier one."""
        self._connection.execute("INSERT OR REPLACE INTO accounts VALUES (?, ?)", (job_id, account))

    def find(self, job_id: JobId) -> str | None:
        """Give a job's account, if it has one."""
        row = self._connection.execute(
            "SELECT account FROM accounts WHERE job_id = ?", (job_id,)
        ).fetchone()
        return None if row is None else str(row["account"])
