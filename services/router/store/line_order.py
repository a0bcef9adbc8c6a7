"""In which order a job's lines run: those that begin alike together, and long ones early.

Lines with a common beginning find each other's pages only as long as these are kept, so they should
run together; and a long line that begins last leaves the cluster idle but for itself. A whole job
is known when it begins, so its order is drawn up then, from the text: reading tokens would take as
long as reading the job.
"""

import sqlite3
from hashlib import blake2b
from typing import Any, Final

from common.errors import LineRefused
from common.ids import JobId
from services.router.text.line_parser import read_object

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS outlines (
    job_id TEXT NOT NULL, number INTEGER NOT NULL, size INTEGER NOT NULL,
    near INTEGER NOT NULL, middle INTEGER NOT NULL, far INTEGER NOT NULL,
    PRIMARY KEY (job_id, number)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS places (
    job_id TEXT NOT NULL, place INTEGER NOT NULL, number INTEGER NOT NULL,
    PRIMARY KEY (job_id, place)
) WITHOUT ROWID;
"""

_HEADS: Final = (256, 1024, 4096)
"""Characters that must be equal for lines to belong together: closely, and more closely."""
_CHARACTERS_PER_TOKEN: Final = 4

_RANK: Final = """
INSERT INTO places SELECT job_id, ROW_NUMBER() OVER (
    ORDER BY near_size DESC, near_first, middle_size DESC, middle_first, far_size DESC, far_first,
        size DESC, number
) - 1, number FROM (
    SELECT *,
        MAX(size) OVER nearly AS near_size, MIN(number) OVER nearly AS near_first,
        MAX(size) OVER closely AS middle_size, MIN(number) OVER closely AS middle_first,
        MAX(size) OVER wholly AS far_size, MIN(number) OVER wholly AS far_first
    FROM outlines WHERE job_id = ? WINDOW
        nearly AS (PARTITION BY near),
        closely AS (PARTITION BY near, middle),
        wholly AS (PARTITION BY near, middle, far)
)
"""


class LineOrder:
    """Reads and writes inside the transactions of the job store."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def note(self, job_id: JobId, number: int, text: str) -> None:
        """Note what a line is like; one that cannot be read is like nothing."""
        size, heads = outline(text)
        self._connection.execute(
            "INSERT INTO outlines VALUES (?, ?, ?, ?, ?, ?)", (job_id, number, size, *heads)
        )

    def settle(self, job_id: JobId) -> None:
        """Give every line of a job that is whole its place."""
        self._connection.execute(_RANK, (job_id,))
        self._connection.execute("DELETE FROM outlines WHERE job_id = ?", (job_id,))


def outline(text: str) -> tuple[int, tuple[int, int, int]]:
    """Say how large a line is, and how it begins, in three lengths.

    Returns:
        The bits of the number of tokens that it may come to: lines that differ by less than a
        factor of two keep their order, so that results come about in the order of the input.
        And the hashes.
    """
    try:
        body = read_object(text).get("body")
    except LineRefused:
        body = None
    if not isinstance(body, dict):
        return 0, (0, 0, 0)
    begins = _prompt(body)
    near, middle, far = (_hash(begins[:length]) for length in _HEADS)
    limits = (body.get(name) for name in ("max_completion_tokens", "max_tokens"))
    limit = next((value for value in limits if type(value) is int and 0 < value < 2**31), 0)
    size = (len(begins) // _CHARACTERS_PER_TOKEN + limit).bit_length()
    return size, (near, middle, far)


def _prompt(body: dict[str, Any]) -> str:
    prompt = body.get("messages", body.get("prompt"))
    return prompt if isinstance(prompt, str) else repr(prompt)


def _hash(text: str) -> int:
    digest = blake2b(text.encode(errors="replace"), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)
