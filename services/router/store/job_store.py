"""Jobs, their lines and their results on disk: what a restart of the router finds again.

One SQLite file in the data directory, used from one thread. Every method is one transaction: when
it returns, what it says is durable; when it raises, nothing has changed.
"""

import json
import sqlite3
import uuid
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from common.errors import LineRefused, SettingsError
from common.ids import JobId, Term
from services.router.lines import ChoicePrefix, PrefixGrown
from services.router.store.account_table import SCHEMA as ACCOUNT_SCHEMA
from services.router.store.account_table import AccountTable
from services.router.store.job_records import Job, NewJob, StoredFile, window_s
from services.router.store.line_table import SCHEMA as LINE_SCHEMA
from services.router.store.line_table import LineTable, TakenLines
from services.router.store.prefix_table import SCHEMA as PREFIX_SCHEMA
from services.router.store.prefix_table import PrefixTable
from services.router.store.store_file import SCHEMA, lock_directory, make_tables, transaction
from services.router.text.batch_file import Place, read_lines
from services.router.text.line_parser import MAX_LINE_BYTES, find_custom_id
from services.router.text.results import ResultLine, refuse

_TABLES: Final = SCHEMA + LINE_SCHEMA + PREFIX_SCHEMA + ACCOUNT_SCHEMA
_LINES_PER_COMMIT: Final = 500
_IN_JSON: Final = ("metadata", "made_with")


class JobStore:
    """The store, held alone: a second router on the same directory is refused."""

    def __init__(self, directory: Path) -> None:
        """Open or make the store, and raise the term.

        Raises:
            SettingsError: Another router holds the directory, or it cannot be used.
        """
        self.directory = directory
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._lock = lock_directory(directory / "lock")
        except OSError as error:
            message = f"the data directory {directory} cannot be used: {error}"
            raise SettingsError(message) from error
        try:
            path = directory / "jobs.sqlite"
            self._connection = sqlite3.connect(path, isolation_level=None)
            self._connection.row_factory = sqlite3.Row
            make_tables(self._connection, path, _TABLES)
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = FULL")
            self._prefixes = PrefixTable(self._connection)
            self._lines = LineTable(self._connection)
            self._accounts = AccountTable(self._connection)
            self.term = self._raise_term()
            self._drop_loading()
        except SettingsError:
            self.close()
            raise
        except sqlite3.Error as error:
            self._lock.close()
            message = f"{directory / 'jobs.sqlite'} is not a usable job store: {error}"
            raise SettingsError(message) from error

    def close(self) -> None:
        """Close the store and let another router have it."""
        self._connection.close()
        self._lock.close()

    # Files

    def file_path(self, file_id: str) -> Path:
        """Give the place of an uploaded file."""
        return self.directory / "files" / f"{file_id}.jsonl"

    def add_file(self, file: StoredFile) -> None:
        """Remember an uploaded file that lies at its `file_path`."""
        self._connection.execute(
            "INSERT INTO files VALUES (?, ?, ?, ?)",
            (file.file_id, file.name, file.size_bytes, file.created_at),
        )

    def file(self, file_id: str) -> StoredFile | None:
        """Give an uploaded file, if there is one of this id."""
        row = self._one("SELECT * FROM files WHERE file_id = ?", file_id)
        return StoredFile(**dict(row)) if row else None

    def files(self) -> list[StoredFile]:
        """Give all uploaded files, in the order they came."""
        rows = self._connection.execute("SELECT * FROM files ORDER BY rowid")
        return [StoredFile(**dict(row)) for row in rows]

    def delete_file(self, file_id: str) -> bool:
        """Forget an uploaded file and free its place; False if there is none of this id."""
        deleted = self._connection.execute("DELETE FROM files WHERE file_id = ?", (file_id,))
        if deleted.rowcount:
            self.file_path(file_id).unlink(missing_ok=True)
        return deleted.rowcount > 0

    # Jobs

    def begin_job(self, new: NewJob, now: float) -> JobId:
        """Make a job that has no lines yet; it does not run before `queue_job`."""
        job_id = JobId(f"batch_{uuid.uuid4().hex[:16]}")
        window = new.completion_window
        expires_at = now + window_s(window) if window is not None else None
        self._connection.execute(
            "INSERT INTO jobs (job_id, state, created_at, file_id, endpoint, seed, metadata,"
            " made_with, completion_window, expires_at)"
            " VALUES (?, 'loading', ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *(job_id, now, new.file_id, new.endpoint, new.seed),
                *(json.dumps(dict(new.metadata)), json.dumps(dict(new.made_with))),
                *(window, expires_at),
            ),
        )
        return job_id

    def load_lines(self, job_id: JobId, place: Place, now: float) -> Place:
        """Store the lines of a loading job's file from a place on, as many as make one commit.

        A line that can be seen to be wrong already gets its error line here.

        Returns:
            Where to go on; the same place again at the end of the file.
        """
        row = self._one("SELECT file_id FROM jobs WHERE job_id = ?", job_id)
        assert row is not None
        path = self.file_path(row["file_id"])
        lines, offset = read_lines(path, place.offset, _LINES_PER_COMMIT)
        with transaction(self._connection):
            refused: list[ResultLine] = []
            for number, line in enumerate(lines, place.number):
                try:
                    self._lines.add(job_id, number, line)
                except LineRefused as refusal:
                    refused.append(refuse(job_id, number, find_custom_id(line), refusal))
            self._save(refused, now)
        return Place(number=place.number + len(lines), offset=offset)

    def queue_job(self, job_id: JobId, num_lines: int, now: float) -> Job:
        """End the loading of a job: it may run."""
        with transaction(self._connection):
            self._connection.execute(
                "UPDATE jobs SET state = 'queued', num_lines = ? WHERE job_id = ?",
                (num_lines, job_id),
            )
            self._lines.settle(job_id)
            self._complete(job_id, now)
        job = self.job(job_id)
        assert job is not None
        return job

    def drop_job(self, job_id: JobId) -> None:
        """Forget a job and all that belongs to it."""
        with transaction(self._connection):
            for table in ("prefixes", "results", "outlines", "places", "lines", "accounts", "jobs"):
                self._connection.execute(f"DELETE FROM {table} WHERE job_id = ?", (job_id,))

    def job(self, job_id: str) -> Job | None:
        """Give a job, if there is one of this id that is no longer loading."""
        row = self._one("SELECT * FROM jobs WHERE job_id = ? AND state != 'loading'", job_id)
        return _job(row) if row else None

    def jobs(self) -> list[Job]:
        """Give all jobs that are no longer loading, in the order they came."""
        rows = self._connection.execute(
            "SELECT * FROM jobs WHERE state != 'loading' ORDER BY rowid"
        )
        return [_job(row) for row in rows]

    def cancel_job(self, job_id: JobId, now: float) -> None:
        """End a job that has not ended; its results stay."""
        self._connection.execute(
            "UPDATE jobs SET state = 'cancelled', ended_at = ?"
            " WHERE job_id = ? AND state IN ('queued', 'running')",
            (now, job_id),
        )

    def expire_jobs(self, now: float) -> list[JobId]:
        """End the jobs whose time is over: what they have not done gets an error line.

        Returns:
            Their ids.
        """
        rows = self._connection.execute(
            "SELECT job_id FROM jobs WHERE state IN ('queued', 'running') AND expires_at <= ?",
            (now,),
        )
        expired = [JobId(row["job_id"]) for row in rows]
        for job_id in expired:
            with transaction(self._connection):
                self._connection.execute(
                    "UPDATE jobs SET state = 'expired', ended_at = ? WHERE job_id = ?",
                    (now, job_id),
                )
                self._save(self._unfinished(job_id), now)
        return expired

    def _unfinished(self, job_id: JobId) -> Iterator[ResultLine]:
        refusal = LineRefused("it was not done within the completion window", code="batch_expired")
        for number, custom_id in self._lines.unfinished(job_id):
            yield refuse(job_id, number, custom_id, refusal, status_code=408)

    def resume_job(self, job_id: JobId) -> None:
        """Let a cancelled job go on: its lines without a result may run."""
        self._connection.execute(
            "UPDATE jobs SET state = 'queued', ended_at = NULL"
            " WHERE job_id = ? AND state = 'cancelled'",
            (job_id,),
        )

    def account(self, job_id: JobId) -> str | None:
        """Give a job's account, if it has one."""
        return self._accounts.find(job_id)

    def save_account(self, job_id: JobId, account: str) -> None:
        """Keep a job's account instead of an earlier one."""
        self._accounts.save(job_id, account)

    # Lines and results

    def take_lines(
        self, job_id: JobId, start: int, limit: int, enough: int = MAX_LINE_BYTES
    ) -> TakenLines:
        """Give the next lines without a result, from a place on; the job counts as running.

        Args:
            job_id: The job.
            start: The place.
            limit: Lines at most.
            enough: Characters after which no further line is taken.
        """
        self._connection.execute(
            "UPDATE jobs SET state = 'running' WHERE job_id = ? AND state = 'queued'", (job_id,)
        )
        return self._lines.take(job_id, start, limit, enough)

    def save_results(self, results: Sequence[ResultLine], now: float) -> None:
        """Keep results; a line that has one already keeps it. Jobs that are whole are completed."""
        with transaction(self._connection):
            self._save(results, now)

    def results(
        self, job_id: JobId, start: int, limit: int, ok: bool | None = None
    ) -> list[tuple[int, str]]:
        """Give finished lines, (number, result), in input order, from a number on.

        With `ok` only the successful ones, or only the others.
        """
        rows = self._connection.execute(
            "SELECT number, text FROM results WHERE job_id = ? AND number >= ?"
            " AND ok = coalesce(?, ok) ORDER BY number LIMIT ?",
            (job_id, start, ok, limit),
        )
        return [(row["number"], row["text"]) for row in rows]

    def results_size(self, job_id: JobId, ok: bool) -> int:
        """Count the bytes of a job's results as a file, the successful ones or the others."""
        row = self._one(
            "SELECT total(length(CAST(text AS BLOB)) + 1) AS size FROM results"
            " WHERE job_id = ? AND ok = ?",
            *(job_id, ok),
        )
        return int(row["size"]) if row is not None else 0

    def save_prefixes(self, grown: Sequence[PrefixGrown]) -> None:
        """Keep what was generated of lines that have no result yet."""
        with transaction(self._connection):
            self._prefixes.add(grown)

    def prefixes(
        self, job_id: JobId, numbers: Sequence[int]
    ) -> dict[int, tuple[ChoicePrefix, ...]]:
        """Give what was generated of some lines in earlier lives, by the lines' numbers."""
        return self._prefixes.find(job_id, numbers)

    def _save(self, results: Iterable[ResultLine], now: float) -> None:
        touched: set[JobId] = set()
        for result in results:
            added = self._connection.execute(
                "INSERT OR IGNORE INTO results VALUES (?, ?, ?, ?)",
                (result.job_id, result.number, result.ok, result.text),
            )
            if added.rowcount:
                touched.add(result.job_id)
                self._count(result)
                self._prefixes.forget(result.job_id, result.number)
        for job_id in touched:
            self._complete(job_id, now)

    def _count(self, result: ResultLine) -> None:
        self._connection.execute(
            "UPDATE jobs SET num_completed = num_completed + ?, num_failed = num_failed + ?,"
            " prompt_tokens = prompt_tokens + ?, generated_tokens = generated_tokens + ?"
            " WHERE job_id = ?",
            (
                int(result.ok),
                int(not result.ok),
                result.prompt_tokens,
                result.generated_tokens,
                result.job_id,
            ),
        )

    def _complete(self, job_id: JobId, now: float) -> None:
        self._connection.execute(
            "UPDATE jobs SET state = 'completed', ended_at = ? WHERE job_id = ?"
            " AND state IN ('queued', 'running') AND num_completed + num_failed = num_lines",
            (now, job_id),
        )

    def _raise_term(self) -> Term:
        with transaction(self._connection):
            self._connection.execute(
                "INSERT INTO facts VALUES ('term', 1)"
                " ON CONFLICT (name) DO UPDATE SET value = value + 1"
            )
        row = self._one("SELECT value FROM facts WHERE name = 'term'")
        assert row is not None
        return Term(row["value"])

    def _drop_loading(self) -> None:
        rows = self._connection.execute("SELECT job_id FROM jobs WHERE state = 'loading'")
        for row in rows.fetchall():
            self.drop_job(row["job_id"])

    def _one(self, query: str, *values: Any) -> sqlite3.Row | None:
        row: sqlite3.Row | None = self._connection.execute(query, values).fetchone()
        return row


def _job(row: sqlite3.Row) -> Job:
    return Job(**{**dict(row), **{name: json.loads(row[name]) for name in _IN_JSON}})
