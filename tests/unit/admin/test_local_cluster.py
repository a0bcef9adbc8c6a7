"""A cluster on this machine is started as planned, watched, and leaves nothing behind."""

import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from services.admin.local_cluster import (
    MAX_RESTARTS,
    ClusterFailed,
    ClusterPlan,
    Devices,
    LocalCluster,
)

ENDS = "import sys; sys.stderr.write('a warning\\nglinthawk: no memory\\n'); sys.exit(2)"
SHARE = "--kv-memory-share"
LEAVES = ""
STAYS = "import signal; signal.pause()"


def plan(**changes) -> ClusterPlan:
    plain = {"layer_workers": 2, "attention_workers": 3, "router": {"model": "/m", "seed": None}}
    return ClusterPlan(**plain | changes)


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def words(cluster: LocalCluster, name: str) -> list[str]:
    command = dict(cluster.commands())[name]
    return [word.replace(str(cluster.directory), "DIR") for word in command[2:]]


def option(command: list[str], flag: str) -> str:
    return command[command.index(flag) + 1]


class Scripted(LocalCluster):
    """A cluster whose processes are scripts."""

    def __init__(self, *scripts: str) -> None:
        super().__init__(plan())
        self._scripts = scripts

    def commands(self) -> Sequence[tuple[str, list[str]]]:
        return [
            (f"process-{index}", [sys.executable, "-S", "-c", script])
            for index, script in enumerate(self._scripts)
        ]


def wait_for_end(cluster: LocalCluster) -> None:
    for child in cluster._children:
        child.process.wait(10)


def test_a_cluster_has_a_router_a_kv_manager_and_the_workers_asked_for(temporary: Path) -> None:
    cluster = LocalCluster(plan())

    assert [name for name, _ in cluster.commands()] == [
        "router",
        "kv-manager",
        "layer-worker-0",
        "layer-worker-1",
        "attention-worker-0",
        "attention-worker-1",
        "attention-worker-2",
    ]


def test_the_router_is_told_the_shape_of_the_cluster(temporary: Path) -> None:
    command = words(LocalCluster(plan(router={"model": "/m", "block_size": 16})), "router")

    assert command[:2] == ["services.router", "--die-with-parent"]
    assert option(command, "--block-size") == "16"
    assert option(command, "--layer-workers") == "2"
    assert option(command, "--attention-workers") == "3"
    assert option(command, "--data-directory") == "DIR/data"


def test_what_nobody_decided_is_no_option(temporary: Path) -> None:
    assert "--seed" not in words(LocalCluster(plan()), "router")


def test_a_data_directory_of_the_user_is_kept(temporary: Path) -> None:
    router = {"model": "/m", "data_directory": Path("/jobs")}

    command = words(LocalCluster(plan(router=router)), "router")

    assert option(command, "--data-directory") == "/jobs"
    assert "DIR/data" not in command


def test_workers_are_told_where_the_router_is_and_who_they_are(temporary: Path) -> None:
    cluster = LocalCluster(plan(attention={"kv_memory": "1MiB"}, threads=2))

    command = words(cluster, "attention-worker-1")

    assert option(command, "--router-endpoint") == option(words(cluster, "router"), "--bind")
    assert option(command, "--worker-id") == "attention-worker-1"
    assert option(command, "--ordinal") == "1"
    assert option(command, "--kv-memory") == "1MiB"
    assert option(command, "--threads") == "2"


def test_options_of_every_process_reach_all_of_them(temporary: Path) -> None:
    cluster = LocalCluster(plan(shared={"link_delay_ms": 3}))

    commands = [command for _, command in cluster.commands()]

    assert [option(command, "--link-delay-ms") for command in commands] == ["3"] * 7


def test_attention_workers_share_the_free_memory_that_all_of_them_see(temporary: Path) -> None:
    shares = [
        float(option(words(LocalCluster(plan(attention_workers=number)), name), SHARE))
        for number, name in ((1, "attention-worker-0"), (4, "attention-worker-3"))
    ]

    assert shares[1] == pytest.approx(shares[0] / 4)


def test_a_process_that_ends_is_reported_with_its_own_last_words(temporary: Path) -> None:
    with Scripted(ENDS) as cluster:
        wait_for_end(cluster)

        with pytest.raises(ClusterFailed, match=r"^process-0 ended with exit code 2: no memory$"):
            cluster.check()


def test_a_process_that_ends_is_started_again(temporary: Path) -> None:
    with Scripted(ENDS) as cluster:
        wait_for_end(cluster)

        ends = cluster.restart_dead()

    assert ends == ["process-0 ended with exit code 2: no memory"]


def test_a_process_that_was_told_to_leave_is_not_started_again(temporary: Path) -> None:
    with Scripted(LEAVES) as cluster:
        wait_for_end(cluster)

        assert cluster.restart_dead() == []
        assert cluster.processes() == {}


def test_a_process_that_ends_again_and_again_is_given_up(temporary: Path) -> None:
    with Scripted(ENDS) as cluster:
        for _ in range(MAX_RESTARTS):
            wait_for_end(cluster)
            cluster.restart_dead()
        wait_for_end(cluster)

        with pytest.raises(ClusterFailed, match="no memory"):
            cluster.restart_dead()


def test_a_cluster_leaves_no_process_and_no_file(temporary: Path) -> None:
    with Scripted(STAYS, STAYS) as cluster:
        children = [child.process for child in cluster._children]

    assert all(process.returncode is not None for process in children)
    assert list(temporary.iterdir()) == []


def test_stopping_twice_does_nothing_more(temporary: Path) -> None:
    with Scripted(STAYS) as cluster:
        cluster.stop()

        cluster.stop()

    assert list(temporary.iterdir()) == []


def test_layer_workers_have_a_device_each_and_pages_may_be_beside_them(temporary: Path) -> None:
    devices = Devices(names=("cuda:0", "cuda:1"), kv_bytes=1000)
    cluster = LocalCluster(plan(devices=devices, attention_workers=1))

    commands = [words(cluster, f"layer-worker-{index}") for index in range(2)]
    commands += [words(cluster, f"attention-worker-{index}") for index in (1, 2)]

    assert [option(each, "--device") for each in commands] == ["cuda:0", "cuda:1"] * 2
    assert [option(each, "--kv-memory") for each in commands[2:]] == ["1000"] * 2
    assert "--device" not in words(cluster, "attention-worker-0")
    assert option(words(cluster, "router"), "--attention-workers") == "3"
