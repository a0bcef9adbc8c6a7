"""The rendered pods of Kubernetes, run by Docker, are a cluster that answers and ends in order.

What Kubernetes would resolve is resolved (names, addresses, secrets, claims), and what it would enforce is
enforced (users, read-only file systems, capabilities, limits). Needs `kubectl` and root.
"""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.containers import eventually
from tests.support.manifests import name, workloads
from tests.support.pods import Node, Pod

pytestmark = [
    pytest.mark.usefixtures("images"),
    pytest.mark.timeout(600),
    pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed"),
    pytest.mark.skipif(os.geteuid() != 0, reason="files of other users take root"),
]

OVERLAY = "local"
PROBES = ("startupProbe", "readinessProbe", "livenessProbe")


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    node = Node(OVERLAY, Path(tmp_path_factory.mktemp("node")))
    yield node
    node.clear()


@pytest.fixture(scope="module")
def pods(node: Node) -> list[Pod]:
    # In any order: a worker waits for its router.
    wanted = sorted(workloads(OVERLAY), key=name)
    return [pod for workload in wanted for pod in node.start(workload)]


def test_all_probes_of_all_pods_pass(pods: list[Pod]) -> None:
    eventually(lambda: all(pod.passes(probe) for pod in pods for probe in PROBES), 90)

    assert [pod.name for pod in pods] == [
        *("attention-worker-0", "attention-worker-1"),
        *("kv-manager-0", "layer-worker-0", "router-0"),
    ]


def test_the_api_answers_those_who_have_a_key(node: Node, pods: list[Pod]) -> None:
    [router] = [pod for pod in pods if pod.service == "router"]
    url = f"{router.url('http')}/v1/chat/completions"
    body = {"model": "tiny", "messages": [{"role": "user", "content": "sort: banana"}]}

    stranger = httpx.post(url, json=body)
    answer = httpx.post(
        url,
        json={**body, "temperature": 0},
        headers={"authorization": f"Bearer {node.api_key}"},
        timeout=60,
    )

    assert stranger.status_code == 401
    assert answer.json()["choices"][0]["message"]["content"] == "aaabnn"


def test_pods_end_within_their_grace(pods: list[Pod]) -> None:
    codes = {pod.name: pod.end() for pod in pods}

    assert set(codes.values()) == {0}
