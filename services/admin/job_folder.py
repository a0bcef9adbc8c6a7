"""What `run-batch` leaves beside an unfinished output, so that the same command goes on with it."""

import hashlib
import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from common.errors import JobRefused

_RECORD: Final = "job.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRecord:
    """Which job an output is from."""

    token: str
    """The cluster knows the job by it, so that it is found again whenever the command ends."""
    input_sha256: str


class JobFolder:
    """The folder `OUT.job`: there from the job's begin until its output is whole."""

    def __init__(self, output: Path) -> None:
        """Touch nothing yet."""
        self._folder = output.with_name(output.name + ".job")

    @property
    def store(self) -> Path:
        """The data directory of a router that is started for this job alone."""
        return self._folder / "store"

    def find(self) -> JobRecord | None:
        """Give the job that was about to begin; None if there is none."""
        try:
            return JobRecord(**json.loads((self._folder / _RECORD).read_text(encoding="utf-8")))
        except (FileNotFoundError, ValueError, TypeError):  # ended before it was written whole
            return None

    def demand_same(self, record: JobRecord, digest: str) -> None:
        """See that a job that is to go on has the same input.

        Raises:
            JobRefused: It was begun with another one.
        """
        if record.input_sha256 != digest:
            message = (
                f"{self._folder} is an unfinished job with another input: "
                "give another output, or remove that folder"
            )
            raise JobRefused(message)

    def begin(self, record: JobRecord) -> None:
        """Remember a job before it begins; the record appears whole."""
        self._folder.mkdir(exist_ok=True)
        part = self._folder / f"{_RECORD}.part"
        with part.open("w", encoding="utf-8") as file:
            json.dump(asdict(record), file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(self._folder / _RECORD)

    def remove(self) -> None:
        """Forget the job: its output is whole, or nothing of it was done."""
        shutil.rmtree(self._folder, ignore_errors=True)


def digest_of(path: Path) -> str:
    """Give the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
