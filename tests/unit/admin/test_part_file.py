"""The output has whole lines only, also where the disk is full in the middle of one."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.admin.part_file import OutputUnwritable, PartFile


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "out.jsonl.part"


class Disk:
    """Takes so many bytes and then fails, as `os.write` does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, error: int = errno.ENOSPC) -> None:
        self.room = 0
        self._error = error
        self._write = os.write
        monkeypatch.setattr(os, "write", self.write)

    def write(self, number: int, data: bytes) -> int:
        if not self.room:
            raise OSError(self._error, os.strerror(self._error))
        written = self._write(number, data[: self.room])
        self.room -= written
        return written


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    return Disk(monkeypatch)


def test_lines_follow_each_other(path: Path) -> None:
    with PartFile(path) as part:
        assert part.append(b"a\n")
        assert part.append(b"bc\n")

    assert path.read_bytes() == b"a\nbc\n"


def test_an_earlier_part_is_begun_anew(path: Path) -> None:
    path.write_bytes(b"half a li")

    with PartFile(path) as part:
        part.append(b"a\n")

    assert path.read_bytes() == b"a\n"


def test_a_line_that_met_a_full_disk_is_not_there_and_may_come_again(
    path: Path, disk: Disk
) -> None:
    with PartFile(path) as part:
        disk.room = 4
        assert part.append(b"a\n")

        assert not part.append(b"bcdef\n")
        between = path.read_bytes()
        disk.room = 100
        assert part.append(b"bcdef\n")

    assert between == b"a\n"
    assert path.read_bytes() == b"a\nbcdef\n"


def test_what_waiting_does_not_mend_is_told(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Disk(monkeypatch, errno.EIO)

    with PartFile(path) as part, pytest.raises(OutputUnwritable, match="Input/output error"):
        part.append(b"a\n")


def test_a_finished_part_is_the_output(path: Path) -> None:
    output = path.with_name("out.jsonl")
    output.write_bytes(b"old\n")

    with PartFile(path) as part:
        part.append(b"new\n")
        part.finish(output)

    assert output.read_bytes() == b"new\n"
    assert not path.exists()


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(OutputUnwritable, match="No such file"):
        PartFile(tmp_path / "nowhere" / "out.jsonl.part")
