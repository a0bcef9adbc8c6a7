"""A cluster that other machines may reach: over tcp, with keys for its links and for its API."""

import json
import signal
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from common.wire.keys import create_keys
from services.router.http.keys import add_api_key
from tests.support.processes import ROOT, SHIPPED, run, url_of

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(120)]

SHIPPED_BATCH = ROOT / "examples/tiny/batch.jsonl"


@pytest.fixture
def address() -> str:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return f"tcp://127.0.0.1:{taken.getsockname()[1]}"


def test_a_cluster_with_keys_serves_who_has_one_and_nobody_else(
    launch: Callable[..., subprocess.Popen[str]],
    address: str,
    temporary: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    create_keys(tmp_path / "keys")
    create_keys(tmp_path / "strange")
    key = add_api_key(tmp_path / "api-keys", "operator", "admin")
    monkeypatch.setenv("GLINTHAWK_ROUTER__API_KEY_FILE", str(tmp_path / "api-keys"))
    keys = ("--bind", address, "--key-directory", tmp_path / "keys")
    cluster = launch("up", "--model", SHIPPED, "--port", 0, *keys)
    url = url_of(cluster)
    stranger = launch(
        "attention-worker", "--router-endpoint", address,
        "--key-directory", tmp_path / "strange", "--kv-memory", "1MiB",
    )  # fmt: skip
    output = tmp_path / "out.jsonl"
    job = ("run-batch", "-i", SHIPPED_BATCH, "-o", output, "--url", url)

    refused = run(temporary, *job)
    monkeypatch.setenv("GLINTHAWK_ADMIN__API_KEY", key)
    served = run(temporary, *job)
    _, status, _ = run(temporary, "status", "--url", url)
    for process in (stranger, cluster):
        process.send_signal(signal.SIGTERM)
    said, _ = [process.communicate(timeout=60)[1] for process in (stranger, cluster)]

    assert refused[0] == 2
    assert "Bearer KEY" in refused[2]
    assert served[0] == 0, served[2]
    assert len(output.read_text().splitlines()) == len(SHIPPED_BATCH.read_text().splitlines())
    workers = json.loads(status)["workers"]
    assert len(workers) == 3
    assert all("#" in worker["endpoint"] for worker in workers)
    assert "rejected" in said  # by the router, for its key
