"""`docker compose up` with the shipped model: up in time, and a job survives whatever is done to it."""

import json
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tests.support.containers import SERVICES, Compose, docker, eventually

pytestmark = pytest.mark.timeout(1800)

NUM_LINES = 200
ALL_LINES = {"total": NUM_LINES, "completed": NUM_LINES, "failed": 0}
MAX_START_S = 60


def write_job(path: Path) -> Path:
    """Write lines that take a while: greedy, and without an end before the last token."""
    with path.open("w") as file:
        for number in range(NUM_LINES):
            prompt = [1, *(3 + (number * step) % 90 for step in (1, 3, 7, 11))]
            body = {
                "model": "tiny", "prompt": prompt, "max_tokens": 200, "temperature": 0,
                "ignore_eos": True, "return_token_ids": True,
            }  # fmt: skip
            line = {"custom_id": f"{number}", "method": "POST", "url": "/v1/completions"}
            file.write(json.dumps({**line, "body": body}) + "\n")
    return path


class Job:
    """A job on the cluster, watched from outside."""

    def __init__(self, url: str, lines: Path) -> None:
        """Hand it in."""
        self._url = url
        with lines.open("rb") as file:
            upload = httpx.post(
                f"{url}/v1/files", data={"purpose": "batch"}, files={"file": file}
            ).json()
        body = {"input_file_id": upload["id"], "endpoint": "/v1/completions"}
        body["completion_window"] = "24h"
        batch = httpx.post(f"{url}/v1/batches", json=body).json()
        self._batch = f"{url}/v1/batches/{batch['id']}"

    def status(self) -> dict[str, object]:
        """Ask how far it is; nothing while the router is away."""
        try:
            return httpx.get(self._batch).json()
        except httpx.TransportError:
            return {}

    def has_done(self, num_lines: int) -> bool:
        """Tell whether so many lines have their result."""
        return self.status().get("request_counts", {}).get("completed", 0) >= num_lines

    def has_ended(self) -> bool:
        """Tell whether it is over."""
        return self.status().get("status") in ("completed", "failed", "cancelled", "expired")

    def results(self) -> dict[str, object]:
        """Give the tokens of every line by its id, each of which is there once."""
        content = httpx.get(f"{self._url}/v1/files/{self.status()['output_file_id']}/content").text
        lines = [json.loads(line) for line in content.splitlines()]
        found = {
            line["custom_id"]: line["response"]["body"]["choices"][0]["token_ids"] for line in lines
        }
        assert len(found) == len(lines)
        return found

    def disturb(self, *steps: tuple[int, Callable[[], object]]) -> None:
        """Do something each time that so many lines are done, and wait for the end."""
        for num_lines, step in steps:
            eventually(lambda: self.has_done(num_lines), 300)  # noqa: B023
            assert not self.has_ended()
            step()
        eventually(self.has_ended, 300)


@pytest.fixture(scope="module")
def start_s(compose: Compose) -> float:
    """Start the cluster; give the seconds until all of it is healthy."""
    return compose.up()


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_job(tmp_path_factory.mktemp("job") / "in.jsonl")


@pytest.fixture(scope="module")
def quiet(compose: Compose, start_s: float, job: Path) -> dict[str, object]:
    """Give the results of a run that nothing disturbs."""
    running = Job(compose.url, job)
    eventually(running.has_ended, 300)
    return running.results()


def test_the_cluster_is_healthy_in_time(compose: Compose, start_s: float) -> None:
    assert start_s <= MAX_START_S
    assert all(compose.settled(service) for service in SERVICES)


def test_containers_may_do_as_little_as_possible(compose: Compose, start_s: float) -> None:
    for service in SERVICES:
        (container,) = compose.containers(service)
        host = container["HostConfig"]

        assert host["ReadonlyRootfs"]
        assert host["CapDrop"] == ["ALL"]
        assert host["Memory"] > 0


def test_the_links_are_locked(compose: Compose, start_s: float) -> None:
    status = httpx.get(f"{compose.url}/admin/status").json()

    assert len(status["workers"]) == 3
    assert all("#" in worker["endpoint"] for worker in status["workers"])


def test_the_command_line_runs_a_batch(compose: Compose, start_s: float) -> None:
    words = ("run", "--rm", "--no-deps", "admin", "run-batch", "-i", "examples/tiny/batch.jsonl")

    out = compose(*words, "-o", "/tmp/out.jsonl")

    assert "60 (0 failed)" in out


def test_a_job_survives_scaling_kills_and_a_restart(
    compose: Compose, job: Path, quiet: dict[str, object]
) -> None:
    running = Job(compose.url, job)

    running.disturb(
        (10, lambda: compose.scale(attention_worker=3)),
        (30, lambda: compose.kill_one("attention-worker")),
        (50, lambda: compose.kill_one("layer-worker")),
        (70, lambda: compose("restart", "router")),
        (90, lambda: compose.scale(attention_worker=1)),
    )

    assert running.status()["request_counts"] == ALL_LINES
    assert running.results() == quiet
    assert len(compose.containers("attention-worker")) == 1


def test_both_tiers_grow_and_shrink_while_a_job_runs(
    compose: Compose, job: Path, quiet: dict[str, object]
) -> None:
    compose.up(LAYER_WORKERS=2, ATTENTION_WORKERS=2)
    running = Job(compose.url, job)
    seen = []

    def scale(**services: int) -> None:
        compose.scale(**services)
        eventually(lambda: num_ready(compose) == services, 60)
        seen.append(services)

    # Layer workers by whole pipelines, of two ranges each.
    running.disturb(
        (10, lambda: scale(attention_worker=4, layer_worker=2)),
        (30, lambda: scale(attention_worker=4, layer_worker=4)),
        (50, lambda: scale(attention_worker=1, layer_worker=4)),
        (70, lambda: scale(attention_worker=1, layer_worker=2)),
    )

    assert len(seen) == 4
    assert running.status()["request_counts"] == ALL_LINES
    assert running.results() == quiet


def test_the_cluster_stops_within_its_grace(compose: Compose, start_s: float) -> None:
    names = [each["Id"] for service in SERVICES for each in compose.containers(service)]

    compose("stop", timeout_s=60)

    codes = {json.loads(docker("inspect", name))[0]["State"]["ExitCode"] for name in names}
    assert codes == {0}


def num_ready(compose: Compose) -> dict[str, int]:
    """Count the workers of both tiers that can take work."""
    workers = httpx.get(f"{compose.url}/admin/status").json()["workers"]
    return {
        role: sum(worker["ready"] and worker["role"] == role for worker in workers)
        for role in ("attention_worker", "layer_worker")
    }
