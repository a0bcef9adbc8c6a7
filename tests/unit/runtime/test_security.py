"""A process's keys, from its settings and its signals."""

import os
import shutil
import signal
from pathlib import Path

import anyio
import pytest

from common.config import ServiceSettings
from common.errors import SettingsError
from common.ids import Endpoint, Epoch, WorkerId
from common.runtime.process import Identity, advertised
from common.runtime.security import open_locksmith, reload_on_hangup
from common.runtime.worker import Kind, build_worker
from common.wire.keys import create_keys


class Router(ServiceSettings):
    section = "router"


class Manager(ServiceSettings):
    section = "kv_manager"


class KeyList:
    """Counts how often it is read; one that is broken refuses."""

    def __init__(self, *, broken: bool = False) -> None:
        self.broken = broken
        self.read = anyio.Event()

    def reload(self) -> None:
        self.read.set()
        if self.broken:
            raise SettingsError("a line of it is no key")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    create_keys(tmp_path / "keys")
    return tmp_path / "keys"


def test_without_a_folder_there_are_no_keys() -> None:
    assert open_locksmith(Router()).keyring is None
    assert not open_locksmith(Router()).guarded
    assert open_locksmith(Router(insecure=True)).guarded


def test_a_service_takes_the_key_of_its_role(folder: Path) -> None:
    keyring = open_locksmith(Manager(key_directory=folder)).keyring

    assert keyring is not None
    assert keyring.role_of(keyring.own.public) == "kv_manager"


def test_a_folder_without_the_role_is_refused(folder: Path) -> None:
    (folder / "kv_manager.secret").unlink()

    with pytest.raises(SettingsError, match=r"kv_manager\.secret"):
        open_locksmith(Manager(key_directory=folder))


async def test_a_worker_without_keys_does_not_speak_to_other_machines(tmp_path: Path) -> None:
    settings = Manager(router_endpoint=Endpoint("tcp://router:7400"))
    identity = Identity(worker_id=WorkerId("w"), epoch=Epoch(1))

    with pytest.raises(SettingsError, match="no keys"):
        build_worker(settings, identity, Kind(role="kv_manager"), lambda *_: None)


@pytest.mark.parametrize(
    ("advertise", "seen"),
    [
        (None, "tcp://10.0.0.1:70#0123456789abcdef"),
        ("tcp://a:*", "tcp://a:70#0123456789abcdef"),
        ("tcp://a:90", "tcp://a:90#0123456789abcdef"),
    ],
)
def test_the_address_for_peers_names_the_key(advertise: str | None, seen: str) -> None:
    bound = Endpoint("tcp://10.0.0.1:70#0123456789abcdef")

    assert advertised(bound, Router(advertise=advertise)) == seen


async def test_lists_are_read_again_at_sighup_though_one_is_broken() -> None:
    broken, whole = KeyList(broken=True), KeyList()
    (live,) = reload_on_hangup(None, broken, whole)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(live, None)
        await anyio.lowlevel.checkpoint()
        await anyio.wait_all_tasks_blocked()

        os.kill(os.getpid(), signal.SIGHUP)

        with anyio.fail_after(5):
            await broken.read.wait()
            await whole.read.wait()
        tasks.cancel_scope.cancel()


def test_without_lists_sighup_is_left_alone() -> None:
    assert reload_on_hangup(None, None) == ()


def test_a_copied_folder_serves_as_well(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "mounted"))

    assert open_locksmith(Router(key_directory=copy)).guarded
