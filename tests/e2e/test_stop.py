"""SIGTERM ends every service in order, within its time, and leaves nothing; twice ends it at once."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from services.admin.client import RouterClient
from services.admin.local_cluster import ClusterPlan, LocalCluster
from tests.support.processes import SHIPPED, eventually, processes_of

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(120)]

NAMES = ("attention-worker-0", "kv-manager", "layer-worker-0", "router")
NUM_LINES = 200
DEADLINE_S = 15.0
AT_ONCE_S = 5.0


def write_lines(path: Path) -> Path:
    text = (
        '{{"custom_id": "{0}", "method": "POST", "url": "/v1/completions", "body": {{"prompt":'
        ' "<s><|user|>upper: willow<|assistant|>", "max_tokens": 400, "ignore_eos": true}}}}\n'
    )
    path.write_text("".join(text.format(number) for number in range(NUM_LINES)))
    return path


@pytest.fixture
def stop_timeout_s() -> float:
    """Say how long attention workers may take to end."""
    return 1.0


@pytest.fixture
def busy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, temporary: Path, stop_timeout_s: float
) -> Iterator[LocalCluster]:
    """Give a cluster in the middle of a job."""
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    monkeypatch.setenv("TMPDIR", str(temporary))
    plan = ClusterPlan(
        layer_workers=1,
        attention_workers=2,
        router={"model": SHIPPED, "data_directory": tmp_path / "data"},
        attention={"kv-memory": "64MiB", "stop-timeout-s": stop_timeout_s},
        threads=1,
    )
    with LocalCluster(plan) as cluster:
        with closing(cluster.wait_until_ready()) as client:
            client.create_job(client.upload(write_lines(tmp_path / "in.jsonl")))
            eventually(lambda: client.generated_tokens() > 0)
        yield cluster


@pytest.mark.parametrize(("stop_timeout_s", "moves"), [(60.0, False), (0.5, True)])
def test_requests_end_on_a_worker_that_is_stopped_as_long_as_its_time_allows(
    busy: LocalCluster, moves: bool
) -> None:
    process = children(busy)["attention-worker-0"]
    with closing(RouterClient(busy.url)) as client:
        failed = client.status()["totals"]["failed_microbatches"]

        process.terminate()

        assert process.wait(60.0) == 0
        eventually(lambda: client.status()["totals"]["lines"] == NUM_LINES)
        now = client.status()
    assert ("drained" in now["pages"]["recomputed_tokens"]) == moves
    assert now["totals"]["failed_microbatches"] == failed
    assert [each["worker_id"] for each in now["workers"]].count("attention-worker-0") == 0


def children(cluster: LocalCluster) -> dict[str, subprocess.Popen[bytes]]:
    return {child.name: child.process for child in cluster._children}


def test_every_service_that_is_stopped_in_a_job_ends_in_order(
    busy: LocalCluster, tmp_path: Path
) -> None:
    processes = children(busy)
    ingest = psutil.Process(processes["router"].pid).children(recursive=True)
    generated = 0

    for name in NAMES:
        if name == "router":
            with closing(RouterClient(busy.url)) as client:
                generated = client.generated_tokens()
        processes[name].terminate()

        assert processes[name].wait(DEADLINE_S) == 0, name
        assert not (busy.directory / name).exists(), "its socket is left"

    assert not [each for each in ingest if each.is_running()]
    assert count_kept(tmp_path / "data" / "jobs.sqlite") >= generated > 0


def count_kept(path: Path) -> int:
    """Count the tokens in a job store, those of lines that ended and of those that did not."""
    code = (
        "import sqlite3, sys\n"
        "store = sqlite3.connect(sys.argv[1])\n"
        "[begun] = store.execute('SELECT total(length(tokens)) FROM prefixes').fetchone()\n"
        "[ended] = store.execute('SELECT total(generated_tokens) FROM jobs').fetchone()\n"
        "print(int(begun) // 4 + int(ended))"
    )
    words = [sys.executable, "-c", code, str(path)]
    return int(subprocess.run(words, check=True, capture_output=True, text=True).stdout)


def test_a_second_signal_ends_every_service_at_once(busy: LocalCluster) -> None:
    for name, process in children(busy).items():
        started_s = time.monotonic()

        process.terminate()
        process.terminate()

        assert process.wait(DEADLINE_S) in (0, 130), name
        assert time.monotonic() - started_s < AT_ONCE_S


def test_nothing_is_left_when_a_busy_cluster_is_stopped(
    busy: LocalCluster, temporary: Path
) -> None:
    shared = {path.name for path in Path("/dev/shm").iterdir()}

    busy.stop()

    assert list(temporary.iterdir()) == []
    assert {path.name for path in Path("/dev/shm").iterdir()} <= shared
    assert processes_of(temporary) == []
