"""A job that cannot read its input or write its output is refused before anything starts."""

import os
from pathlib import Path

import pytest

from common.errors import JobRefused
from services.admin.run_batch import BatchFiles


@pytest.fixture
def files(tmp_path: Path) -> BatchFiles:
    (tmp_path / "in.jsonl").write_text("{}\n")
    return BatchFiles(
        input=tmp_path / "in.jsonl", output=tmp_path / "out.jsonl", report=tmp_path / "report.json"
    )


def test_files_that_can_be_used_are_left_alone(files: BatchFiles) -> None:
    files.check()

    assert os.listdir(files.input.parent) == ["in.jsonl"]


def test_an_output_grows_under_another_name(files: BatchFiles) -> None:
    assert files.part.name == "out.jsonl.part"


def test_an_output_of_an_earlier_run_may_be_there(files: BatchFiles) -> None:
    files.output.write_text("old")

    files.check()

    assert files.output.read_text() == "old"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"input": "missing.jsonl"}, "is not a file"),
        ({"input": "."}, "is not a file"),
        ({"input": "empty.jsonl"}, "is empty"),
        ({"output": "missing/out.jsonl"}, "folder is missing"),
        ({"output": "folder"}, "is a folder"),
        ({"output": "in.jsonl"}, "not all different"),
        ({"report": "missing/report.json"}, "folder is missing"),
        ({"report": "out.jsonl"}, "not all different"),
    ],
)
def test_files_that_cannot_be_used_are_refused(
    files: BatchFiles, changes: dict[str, str], message: str
) -> None:
    folder = files.input.parent
    (folder / "empty.jsonl").touch()
    (folder / "folder").mkdir()
    paths = {"input": files.input, "output": files.output, "report": files.report}
    wrong = BatchFiles(**paths | {name: folder / path for name, path in changes.items()})

    with pytest.raises(JobRefused, match=message):
        wrong.check()
