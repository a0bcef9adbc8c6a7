"""The file that the job store is: its tables and their version, its lock, and all or nothing."""

import fcntl
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

from common.errors import SettingsError

VERSION: Final = 2
"""Of the tables of all parts of the store; raised with any change of them."""

_APPLICATION_ID: Final = int.from_bytes(b"Glnt")
"""In the file's header, by which it is known as ours."""

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS files (
    file_id TEXT PRIMARY KEY, name TEXT NOT NULL, size_bytes INTEGER NOT NULL,
    created_at REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS jobs (
    job_id TEXT PRIMARY KEY, state TEXT NOT NULL, created_at REAL NOT NULL, ended_at REAL,
    file_id TEXT NOT NULL, endpoint TEXT, seed INTEGER NOT NULL, metadata TEXT NOT NULL,
    completion_window TEXT, expires_at REAL,
    made_with TEXT NOT NULL,
    num_lines INTEGER NOT NULL DEFAULT 0, num_completed INTEGER NOT NULL DEFAULT 0,
    num_failed INTEGER NOT NULL DEFAULT 0, prompt_tokens INTEGER NOT NULL DEFAULT 0,
    generated_tokens INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE IF NOT EXISTS results (
    job_id TEXT NOT NULL, number INTEGER NOT NULL, ok INTEGER NOT NULL, text TEXT NOT NULL,
    PRIMARY KEY (job_id, number)
);
"""


def make_tables(connection: sqlite3.Connection, path: Path, schema: str) -> None:
    """Make the tables of a new file, all or none.

    Raises:
        SettingsError: The file is another program's, or another release's; it is as it was.
    """
    if connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone() is None:
        marks = f"PRAGMA application_id = {_APPLICATION_ID}; PRAGMA user_version = {VERSION};"
        connection.executescript(f"BEGIN IMMEDIATE; {schema} {marks} COMMIT;")
    [application_id] = connection.execute("PRAGMA application_id").fetchone()
    [version] = connection.execute("PRAGMA user_version").fetchone()
    if application_id != _APPLICATION_ID:
        message = f"{path} is no job store of Glinthawk: set another data_directory"
        raise SettingsError(message)
    if version != VERSION:
        message = (
            f"{path} is a job store of version {version}, this release reads version {VERSION}: "
            "end its jobs with the release that began them, or set another data_directory"
        )
        raise SettingsError(message)


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """All or nothing of what happens inside."""
    try:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # SQLite itself takes back what met a full disk
            connection.execute("ROLLBACK")
        raise


def lock_directory(path: Path) -> BinaryIO:
    """Hold the directory's lock as long as the file is open; the kernel lets go if we die.

    Raises:
        SettingsError: Another process holds it.
    """
    file = path.open("ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        message = (
            f"another router uses the data directory {path.parent}: "
            "stop it, or set another data_directory"
        )
        raise SettingsError(message) from None
    return file
