"""What was generated of unfinished lines, on disk: a restart goes on from there.

A part of the job store. Each row is a stretch of one choice's tokens; together they are its prefix.
"""

import sqlite3
from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
from pydantic import TypeAdapter
from pydantic_core import to_json

from common.ids import JobId
from services.router.lines import ChoicePrefix, PrefixGrown, TokenLogprobs

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS prefixes (
    job_id TEXT NOT NULL, number INTEGER NOT NULL, choice INTEGER NOT NULL, start INTEGER NOT NULL,
    tokens BLOB NOT NULL, logprobs BLOB, PRIMARY KEY (job_id, number, choice, start)
) WITHOUT ROWID;
"""

_LOGPROBS: Final = TypeAdapter(TokenLogprobs)
_TOKEN: Final = np.dtype("<i4")


class PrefixTable:
    """Reads and writes inside the transactions of the job store."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def add(self, grown: Iterable[PrefixGrown]) -> None:
        """Keep more tokens; a stretch that is there already is written again."""
        self._connection.executemany(
            "INSERT OR REPLACE INTO prefixes VALUES (?, ?, ?, ?, ?, ?)",
            (
                (
                    each.job_id,
                    each.number,
                    each.choice,
                    each.start,
                    np.array(each.token_ids, _TOKEN).tobytes(),
                    each.logprobs and to_json(each.logprobs, inf_nan_mode="constants"),
                )
                for each in grown
            ),
        )

    def find(self, job_id: JobId, numbers: Sequence[int]) -> dict[int, tuple[ChoicePrefix, ...]]:
        """Give the prefixes of some lines of a job, by the lines' numbers."""
        places = ",".join("?" * len(numbers))
        rows = self._connection.execute(
            "SELECT number, choice, start, tokens, logprobs FROM prefixes"
            f" WHERE job_id = ? AND number IN ({places}) ORDER BY number, choice, start",
            (job_id, *numbers),
        )
        found: dict[int, dict[int, ChoicePrefix]] = {}
        for number, choice, start, tokens, logprobs in rows:
            prefixes = found.setdefault(number, {})
            before = prefixes.get(choice) or ChoicePrefix(choice=choice, token_ids=())
            if start == len(before.token_ids):  # else what lies between was never kept
                columns = None if logprobs is None else _LOGPROBS.validate_json(logprobs)
                prefixes[choice] = before.extended(np.frombuffer(tokens, _TOKEN).tolist(), columns)
        return {number: tuple(prefixes.values()) for number, prefixes in found.items()}

    def forget(self, job_id: JobId, number: int) -> None:
        """Forget a line that has its result."""
        self._connection.execute(
            "DELETE FROM prefixes WHERE job_id = ? AND number = ?", (job_id, number)
        )
