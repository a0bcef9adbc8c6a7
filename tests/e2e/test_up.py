"""`glinthawk up`: a cluster that stays, and is used by other commands."""

import json
import signal
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.processes import ROOT, SHIPPED, processes_of, run, url_of

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(120)]

SHIPPED_BATCH = ROOT / "examples/tiny/batch.jsonl"


@pytest.fixture
def cluster(launch: Callable[..., subprocess.Popen[str]]) -> subprocess.Popen[str]:
    return launch("up", "--model", SHIPPED, "--port", 0)


def test_a_cluster_serves_jobs_until_sigterm(
    cluster: subprocess.Popen[str], temporary: Path, tmp_path: Path
) -> None:
    url = url_of(cluster)
    outputs = [tmp_path / "first.jsonl", tmp_path / "second.jsonl"]

    codes = [
        run(tmp_path, "run-batch", "-i", SHIPPED_BATCH, "-o", o, "--url", url)[0] for o in outputs
    ]
    _, status, _ = run(tmp_path, "status", "--url", url)
    cluster.send_signal(signal.SIGTERM)
    _, error = cluster.communicate(timeout=60)

    assert codes == [0, 0]
    assert len(outputs[1].read_text().splitlines()) == len(SHIPPED_BATCH.read_text().splitlines())
    assert json.loads(status)["ready"]
    assert (cluster.returncode, error.splitlines()[-1]) == (0, "stopped")
    assert processes_of(temporary) == []
    assert list(temporary.iterdir()) == []


def test_a_cluster_that_is_stopped_while_it_starts_leaves_nothing(
    cluster: subprocess.Popen[str], temporary: Path
) -> None:
    assert cluster.stderr
    cluster.stderr.readline()  # some process has begun to log

    cluster.send_signal(signal.SIGTERM)

    assert cluster.wait(60) == 0
    assert processes_of(temporary) == []


def test_a_port_in_use_is_one_line(temporary: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        code, out, error = run(temporary, "up", "--model", SHIPPED, "--port", port)

    assert (code, out, error.count("\n")) == (2, "", 1)
    assert f"127.0.0.1:{port} cannot be had" in error
