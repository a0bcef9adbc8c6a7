"""An unfinished output remembers its job, and only that of the same input."""

from pathlib import Path

import pytest

from common.errors import JobRefused
from services.admin.job_folder import JobFolder, JobRecord, digest_of

RECORD = JobRecord(token="one", input_sha256="abc")


@pytest.fixture
def folder(tmp_path: Path) -> JobFolder:
    return JobFolder(tmp_path / "out.jsonl")


def test_a_job_that_was_begun_is_found_again(folder: JobFolder) -> None:
    folder.begin(RECORD)

    assert folder.find() == RECORD


def test_nothing_was_begun_at_first(folder: JobFolder) -> None:
    assert folder.find() is None


def test_another_input_is_refused_with_what_to_do(folder: JobFolder) -> None:
    folder.demand_same(RECORD, "abc")

    with pytest.raises(JobRefused, match=r"out\.jsonl\.job is an unfinished job with another"):
        folder.demand_same(RECORD, "def")


@pytest.mark.parametrize("text", ["", "{", "{}", '{"token": "a", "more": 1}'])
def test_a_record_that_was_never_whole_counts_as_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "out.jsonl.job").mkdir()
    (tmp_path / "out.jsonl.job" / "job.json").write_text(text)

    assert JobFolder(tmp_path / "out.jsonl").find() is None


def test_a_finished_job_leaves_nothing(folder: JobFolder, tmp_path: Path) -> None:
    folder.begin(RECORD)
    folder.store.mkdir()

    folder.remove()
    folder.remove()

    assert list(tmp_path.iterdir()) == []


def test_a_digest_is_of_the_bytes(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    first.write_bytes(b"x")
    second.write_bytes(b"x ")

    assert digest_of(first) == digest_of(first) != digest_of(second)
