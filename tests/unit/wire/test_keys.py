"""The key folder: made once, read strictly, and changed without a gap."""

import shutil
from pathlib import Path

import pytest
import zmq

from common.errors import SettingsError
from common.messages.speakers import ROLES, Speaker
from common.wire.keys import Keyring, create_keys, find_keys, key_id


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    create_keys(tmp_path / "keys")
    return tmp_path / "keys"


def test_only_the_owner_can_read_keys(folder: Path) -> None:
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}
    assert len([*folder.iterdir()]) == 2 * len(ROLES)


def test_keys_are_never_overwritten(folder: Path) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    with pytest.raises(SettingsError, match="never overwritten"):
        create_keys(folder)

    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_folder_that_cannot_be_made_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(SettingsError, match="cannot be written"):
        create_keys(tmp_path / "file")


@pytest.mark.parametrize("role", ROLES)
def test_every_role_knows_every_role(folder: Path, role: Speaker) -> None:
    own = Keyring(folder, role).own.public

    assert {Keyring(folder, other).role_of(own) for other in ROLES} == {role}
    assert Keyring(folder, role).named(key_id(own)) == own


def test_a_process_needs_no_secret_but_its_own(folder: Path) -> None:
    for role in ROLES[1:]:
        (folder / f"{role}.secret").unlink()

    assert Keyring(folder, ROLES[0]).own.secret

    with pytest.raises(SettingsError, match=f"{ROLES[1]}.secret cannot be read"):
        Keyring(folder, ROLES[1])


def test_an_unknown_key_has_no_role(folder: Path) -> None:
    stranger, _ = zmq.curve_keypair()

    keyring = Keyring(folder, "router")

    assert keyring.role_of(stranger) is None
    assert keyring.named(key_id(stranger)) is None


@pytest.mark.parametrize(
    "content", [b"", b"\n", b"short\n", b"~" * 40, b"#" * 40, b"a" * 45, b"\xff" * 40]
)
def test_a_file_without_keys_is_refused(folder: Path, content: bytes) -> None:
    (folder / "kv_manager.public").write_bytes(content)

    with pytest.raises(SettingsError, match=r"kv_manager.public holds no keys"):
        Keyring(folder, "router")


def test_a_key_proves_one_role(folder: Path) -> None:
    shutil.copy(folder / "router.public", folder / "kv_manager.public")

    with pytest.raises(SettingsError, match="share a key"):
        Keyring(folder, "router")


def test_a_key_that_peers_would_not_know_is_refused(folder: Path, tmp_path: Path) -> None:
    create_keys(tmp_path / "others")
    shutil.copy(tmp_path / "others/router.secret", folder / "router.secret")

    with pytest.raises(SettingsError, match=r"is not in router.public"):
        Keyring(folder, "router")


def test_several_secrets_of_a_role_are_refused(folder: Path) -> None:
    secret = (folder / "router.secret").read_bytes()
    (folder / "router.secret").write_bytes(secret * 2)

    with pytest.raises(SettingsError, match="several keys"):
        Keyring(folder, "router")


def test_new_keys_beside_old_ones_are_allowed_with_them(folder: Path, tmp_path: Path) -> None:
    create_keys(tmp_path / "new", beside=folder)

    old, new = Keyring(folder, "router"), Keyring(tmp_path / "new", "router")

    assert new.role_of(old.own.public) == "router"
    assert old.role_of(new.own.public) is None
    assert {new.router_key(), new.router_key()} == {old.own.public, new.own.public}


def test_a_reloaded_list_counts_at_once(folder: Path, tmp_path: Path) -> None:
    keyring = Keyring(folder, "router")
    create_keys(tmp_path / "new", beside=folder)
    shutil.copy(tmp_path / "new/kv_manager.public", folder / "kv_manager.public")
    joined = Keyring(tmp_path / "new", "kv_manager").own.public
    assert keyring.role_of(joined) is None

    keyring.reload()

    assert keyring.role_of(joined) == "kv_manager"


def test_a_list_that_cannot_be_read_leaves_the_old_one(folder: Path) -> None:
    keyring = Keyring(folder, "router")
    (folder / "kv_manager.public").write_bytes(b"")

    with pytest.raises(SettingsError):
        keyring.reload()

    assert keyring.role_of(keyring.own.public) == "router"


def test_keys_that_are_there_are_found(folder: Path, tmp_path: Path) -> None:
    assert find_keys(folder) == {role: key_id(Keyring(folder, role).own.public) for role in ROLES}
    assert find_keys(tmp_path / "nothing") == {}


def test_half_a_folder_of_keys_is_refused(folder: Path) -> None:
    (folder / "router.secret").unlink()

    with pytest.raises(SettingsError, match=r"router\.secret"):
        find_keys(folder)
