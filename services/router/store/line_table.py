"""The lines of jobs on disk, and the order in which they run. A part of the job store."""

import sqlite3
from typing import Final, NamedTuple

from common.errors import LineRefused
from common.ids import JobId
from services.router.store.line_order import SCHEMA as ORDER_SCHEMA
from services.router.store.line_order import LineOrder
from services.router.text.line_parser import MAX_LINE_BYTES, find_custom_id

SCHEMA: Final = (
    """
CREATE TABLE IF NOT EXISTS lines (
    job_id TEXT NOT NULL, number INTEGER NOT NULL, custom_id TEXT, body TEXT NOT NULL,
    PRIMARY KEY (job_id, number)
);
CREATE UNIQUE INDEX IF NOT EXISTS custom_ids ON lines (job_id, custom_id);
"""
    + ORDER_SCHEMA
)

_WITHOUT_RESULT: Final = (
    "NOT EXISTS (SELECT 1 FROM results WHERE job_id = lines.job_id AND number = lines.number)"
)


class TakenLines(NamedTuple):
    """Lines that are to run now."""

    lines: list[tuple[int, str]]
    """(number, text)"""
    next_place: int
    """Where to go on."""


class LineTable:
    """Reads and writes inside the transactions of the job store."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._order = LineOrder(connection)

    def add(self, job_id: JobId, number: int, line: bytes) -> None:
        """Store a line of a job that is loading.

        Raises:
            LineRefused: It can be seen to be wrong already. It is stored without its text.
        """
        try:
            self._add(job_id, number, line)
        except LineRefused:
            self._insert(job_id, number, None, "")
            raise

    def settle(self, job_id: JobId) -> None:
        """Give every line of a job that is whole its place."""
        self._order.settle(job_id)

    def take(self, job_id: JobId, start: int, limit: int, enough: int) -> TakenLines:
        """Give the next lines without a result, from a place on.

        Args:
            job_id: The job.
            start: The place.
            limit: Lines at most.
            enough: Characters after which no further line is taken.
        """
        rows = self._connection.execute(
            "SELECT place, number, body FROM places JOIN lines USING (job_id, number)"
            f" WHERE job_id = ? AND place >= ? AND {_WITHOUT_RESULT} ORDER BY place LIMIT ?",
            (job_id, start, limit),
        )
        lines: list[tuple[int, str]] = []
        next_place, size = start, 0
        for row in rows:
            lines.append((row["number"], row["body"]))
            next_place = row["place"] + 1
            size += len(row["body"])
            if size >= enough:
                break
        return TakenLines(lines, next_place)

    def unfinished(self, job_id: JobId) -> list[tuple[int, str | None]]:
        """List number and `custom_id` of the lines without a result."""
        rows = self._connection.execute(
            f"SELECT number, custom_id FROM lines WHERE job_id = ? AND {_WITHOUT_RESULT}",
            (job_id,),
        )
        return [(row["number"], row["custom_id"]) for row in rows]

    def _add(self, job_id: JobId, number: int, line: bytes) -> None:
        if len(line) > MAX_LINE_BYTES:
            message = f"it is longer than {MAX_LINE_BYTES} bytes"
            raise LineRefused(message)
        try:
            text = line.decode().strip()
        except UnicodeDecodeError as error:
            message = f"it is not UTF-8: {error}"
            raise LineRefused(message) from error
        custom_id = find_custom_id(text)
        try:
            self._insert(job_id, number, custom_id, text)
        except sqlite3.IntegrityError as error:
            (first,) = self._connection.execute(
                "SELECT number FROM lines WHERE job_id = ? AND custom_id = ?", (job_id, custom_id)
            ).fetchone()
            message = f"line {first + 1} has the same 'custom_id': give it another"
            raise LineRefused(message, param="custom_id") from error

    def _insert(self, job_id: JobId, number: int, custom_id: str | None, body: str) -> None:
        self._connection.execute(
            "INSERT INTO lines VALUES (?, ?, ?, ?)", (job_id, number, custom_id, body)
        )
        self._order.note(job_id, number, body)
