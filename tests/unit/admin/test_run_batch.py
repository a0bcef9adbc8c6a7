"""A job is begun once, however often and however early its command is ended."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from services.admin.client import JobStatus, RouterRefused, RouterUnreachable
from services.admin.progress import JobProgress
from services.admin.run_batch import BatchFiles, BatchRun
from services.router.job_account import JobReport
from tests.support.accounts import report, status


class FakeRouter:
    """A router of which a job is done as soon as somebody asks how far it is."""

    def __init__(self) -> None:
        self.jobs_: dict[str, dict[str, Any]] = {}
        self.uploads: list[bytes] = []
        self.cancelled: list[str] = []
        self.fails: dict[str, list[BaseException]] = {}
        """By method: what it raises the next times, when it has done its work."""

    def _may_fail(self, method: str) -> None:
        if errors := self.fails.get(method):
            raise errors.pop(0)

    def generated_tokens(self) -> int:
        self._may_fail("generated_tokens")
        return 0

    def report(self, job_id: str) -> JobReport:
        self._may_fail("report")
        return replace(report(status(), status()), rows=self.jobs_[job_id]["num_lines"])

    def upload(self, path: Path) -> str:
        self.uploads.append(path.read_bytes())
        self._may_fail("upload")
        return str(len(self.uploads) - 1)

    def create_job(self, file_id: str, metadata: dict[str, str]) -> str:
        job_id = f"job-{len(self.jobs_)}"
        num_lines = self.uploads[int(file_id)].count(b"\n")
        self.jobs_[job_id] = {
            "job_id": job_id,
            "metadata": metadata,
            "num_lines": num_lines,
            "num_completed": num_lines,
            "num_failed": 0,
            "state": "completed",
            "paused": None,
        }
        self._may_fail("create_job")
        return job_id

    def jobs(self) -> list[dict[str, Any]]:
        return list(self.jobs_.values())

    def job(self, job_id: str) -> JobStatus:
        self._may_fail("job")
        return JobStatus.of(self.jobs_[job_id])

    def resume(self, job_id: str) -> JobStatus:
        return self.job(job_id)

    def cancel(self, job_id: str) -> None:
        self.cancelled.append(job_id)
        self._may_fail("cancel")

    def results(self, job_id: str) -> "FakeResults":
        return FakeResults(self.jobs_[job_id]["num_lines"])


class FakeResults:
    """Every line has its result."""

    def __init__(self, num_lines: int) -> None:
        self._num_lines = num_lines

    def chunks(self) -> Iterator[bytes]:
        for number in range(self._num_lines):
            yield json.dumps({"custom_id": f"{number}", "error": None}).encode() + b"\n"


class FakeCluster:
    """A cluster of the command's own, which starts a dead router again."""

    def restart_dead(self) -> list[str]:
        return ["router was ended by SIGKILL"]


@pytest.fixture
def files(tmp_path: Path) -> BatchFiles:
    (tmp_path / "in.jsonl").write_text("one\ntwo\n")
    return BatchFiles(input=tmp_path / "in.jsonl", output=tmp_path / "out.jsonl", report=None)


@pytest.fixture
def router() -> FakeRouter:
    return FakeRouter()


@pytest.fixture
def run(
    files: BatchFiles, router: FakeRouter, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Any]:
    monkeypatch.setattr("services.admin.run_batch._POLL_S", 0.0)

    def give_the_command(cluster: FakeCluster | None = None) -> Any:
        with JobProgress() as progress:
            return BatchRun(files, router, cluster, progress).run()  # type: ignore[arg-type]

    return give_the_command


def names(files: BatchFiles) -> list[str]:
    return sorted(path.name for path in files.output.parent.iterdir())


def test_a_job_that_began_is_found_though_its_command_never_heard_of_it(
    run: Callable[..., Any], router: FakeRouter, files: BatchFiles
) -> None:
    router.fails["create_job"] = [KeyboardInterrupt()]
    with pytest.raises(KeyboardInterrupt):
        run()

    made = run()

    assert (made.rows, len(router.jobs_)) == (2, 1)
    assert names(files) == ["in.jsonl", "out.jsonl"]


def test_a_job_that_did_not_begin_is_begun_by_the_next_command(
    run: Callable[..., Any], router: FakeRouter
) -> None:
    router.fails["upload"] = [KeyboardInterrupt()]
    with pytest.raises(KeyboardInterrupt):
        run()

    made = run()

    assert (made.rows, len(router.jobs_)) == (2, 1)


@pytest.mark.parametrize("method", ["generated_tokens", "upload", "create_job", "job", "report"])
def test_a_router_that_dies_anywhere_in_a_cluster_of_its_own_costs_no_second_job(
    run: Callable[..., Any], router: FakeRouter, method: str
) -> None:
    router.fails[method] = [RouterUnreachable("it is dead")]

    made = run(FakeCluster())

    assert (made.rows, len(router.jobs_)) == (2, 1)


def test_another_input_is_no_obstacle_as_long_as_nothing_had_begun(
    run: Callable[..., Any], router: FakeRouter, files: BatchFiles
) -> None:
    router.fails["upload"] = [KeyboardInterrupt()]
    with pytest.raises(KeyboardInterrupt):
        run()
    files.input.write_text("another\n")

    made = run()

    assert made.rows == 1


def test_a_refused_job_leaves_nothing(
    run: Callable[..., Any], router: FakeRouter, files: BatchFiles
) -> None:
    router.fails["upload"] = [RouterRefused("too large")]

    with pytest.raises(RouterRefused, match="too large"):
        run()

    assert names(files) == ["in.jsonl"]


@pytest.mark.parametrize("unreachable", [False, True])
def test_ctrl_c_cancels_the_job_of_another_cluster_and_stays_ctrl_c(
    run: Callable[..., Any], router: FakeRouter, unreachable: bool
) -> None:
    router.fails["job"] = [KeyboardInterrupt()]
    router.fails["cancel"] = [RouterUnreachable("it is dead")] * unreachable

    with pytest.raises(KeyboardInterrupt):
        run()

    assert router.cancelled == ["job-0"]
