"""The file of API keys: hashes only, written for its owner, read strictly."""

import hashlib
from pathlib import Path

import pytest

from common.errors import SettingsError
from services.router.http.keys import ApiKeys, add_api_key

DIGEST = "0" * 64


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "api-keys"


def test_a_key_is_found_again_and_stored_as_a_hash_only(file: Path) -> None:
    key = add_api_key(file, "alice", "api")

    found = ApiKeys(file).find(key)

    assert found is not None
    assert (found.name, found.scope) == ("alice", "api")
    assert file.read_text() == f"alice api {hashlib.sha256(key.encode()).hexdigest()}\n"
    assert file.stat().st_mode & 0o777 == 0o600


def test_keys_are_long_and_never_the_same(file: Path) -> None:
    keys = {add_api_key(file, f"user-{number}", "api") for number in range(20)}

    assert len(keys) == 20
    assert {len(key) for key in keys} == {46}


@pytest.mark.parametrize("given", ["", "gh-", "x" * 1000, DIGEST, "\xff\u1234"])
def test_what_is_no_key_is_not_found(file: Path, given: str) -> None:
    add_api_key(file, "alice", "admin")

    assert ApiKeys(file).find(given) is None


def test_a_name_is_given_once(file: Path) -> None:
    add_api_key(file, "alice", "api")
    before = file.read_text()

    with pytest.raises(SettingsError, match="has a key of alice"):
        add_api_key(file, "alice", "admin")

    assert file.read_text() == before


@pytest.mark.parametrize("name", ["", "two words", "a\nadmin", "é", " a"])
def test_a_name_that_would_confuse_the_file_is_refused(file: Path, name: str) -> None:
    with pytest.raises(SettingsError, match="is no name"):
        add_api_key(file, name, "api")


@pytest.mark.parametrize(
    "line", ["alice", f"alice root {DIGEST}", f"alice api {DIGEST}0", f"a b api {DIGEST}", " ", "é"]
)
def test_a_line_that_is_no_key_is_refused(file: Path, line: str) -> None:
    file.write_text(f"bob api {DIGEST}\n{line}\n")

    with pytest.raises(SettingsError):
        ApiKeys(file)


def test_a_missing_file_is_refused_with_what_makes_it(file: Path) -> None:
    with pytest.raises(SettingsError, match="glinthawk keys api-key"):
        ApiKeys(file)


def test_a_broken_file_leaves_the_keys_as_they_were(file: Path) -> None:
    key = add_api_key(file, "alice", "api")
    keys = ApiKeys(file)
    file.write_text("broken\n")

    with pytest.raises(SettingsError):
        keys.reload()

    assert keys.find(key)


def test_a_deleted_key_is_not_taken_after_a_reload(file: Path) -> None:
    alice, bob = add_api_key(file, "alice", "api"), add_api_key(file, "bob", "api")
    keys = ApiKeys(file)
    file.write_text(file.read_text().splitlines()[1] + "\n")

    keys.reload()

    assert keys.find(alice) is None
    assert keys.find(bob)
