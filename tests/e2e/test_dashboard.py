"""The dashboard in a real browser: it draws a real cluster, and its console stays clean.

Needs Chromium.
"""

import shutil
import subprocess

import httpx
import pytest

from tests.support.processes import ROOT, SHIPPED, start, url_of

BROWSER = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
SIZES = ("400,900", "1600,900")

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.timeout(120),
    pytest.mark.skipif(BROWSER is None, reason="Chromium is not installed"),
]


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    """A cluster that has done a job."""
    cluster = start(tmp_path_factory.mktemp("cluster"), "up", "--model", SHIPPED, "--port", 0)
    address = url_of(cluster)
    with (ROOT / "examples/tiny/batch.jsonl").open("rb") as lines:
        file = httpx.post(f"{address}/v1/files", files={"file": lines}, data={"purpose": "batch"})
    httpx.post(
        f"{address}/v1/batches",
        json={
            "input_file_id": file.json()["id"],
            "endpoint": "/v1/chat/completions",
            "completion_window": "24h",
        },
    ).raise_for_status()
    yield address
    cluster.terminate()
    cluster.communicate(timeout=60)


@pytest.mark.parametrize("size", SIZES)
def test_the_page_draws_the_cluster(url, tmp_path, size):
    browser = subprocess.run(
        [
            BROWSER,
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--enable-logging=stderr",
            f"--user-data-dir={tmp_path}",
            f"--window-size={size}",
            "--virtual-time-budget=5000",
            "--dump-dom",
            f"{url}/dashboard",
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )

    for drawn in (
        "layer-worker-0",
        "attention-worker-0",
        "kv-manager",
        "ready",
        "Report of batch_",
    ):
        assert drawn in browser.stdout
    assert "CONSOLE" not in browser.stderr
