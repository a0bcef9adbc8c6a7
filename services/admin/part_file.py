"""The output while it grows: whole lines only, whatever the disk says."""

import errno
import os
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from common.errors import GlinthawkError

_NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT)


class OutputUnwritable(GlinthawkError):
    """The output cannot be written, and waiting does not help."""


class PartFile:
    """`OUT.part`, begun anew: results are read from the job store, not from here."""

    def __init__(self, path: Path) -> None:
        """Begin it.

        Raises:
            OutputUnwritable: It cannot be begun.
        """
        self._path = path
        self._size_bytes = 0
        try:
            self._file = path.open("wb", buffering=0)
        except OSError as error:
            raise self._unwritable(error) from error

    def __enter__(self) -> Self:
        """Write to it inside the block."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close it; it stays where it is."""
        self._file.close()

    def append(self, lines: bytes) -> bool:
        """Append lines; False if the disk has no room for them now, and then none of them is there.

        Raises:
            OutputUnwritable: Something else is wrong.
        """
        try:
            written = 0
            while written < len(lines):
                written += os.write(self._file.fileno(), lines[written:])
        except OSError as error:
            os.ftruncate(self._file.fileno(), self._size_bytes)
            os.lseek(self._file.fileno(), self._size_bytes, os.SEEK_SET)
            if error.errno in _NO_ROOM:
                return False
            raise self._unwritable(error) from error
        self._size_bytes += len(lines)
        return True

    def finish(self, output: Path) -> None:
        """Give it the output's name, when all of it is on the disk.

        Raises:
            OutputUnwritable: It cannot be; it is as it was.
        """
        try:
            os.fsync(self._file.fileno())
            self._path.replace(output)
            folder = os.open(output.absolute().parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> OutputUnwritable:
        return OutputUnwritable(f"{self._path} cannot be written: {error.strerror}")
