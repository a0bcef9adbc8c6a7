"""The key folder: the secret key of each role, and the public keys that each role may have.

    ROLE.secret    one line, for the processes of this role alone
    ROLE.public    one key per line, for all; several while keys change

Keys are those of CURVE in Z85 (ZeroMQ RFC 32), and there is one pair per role, so that a worker that
joins needs no new one. A process reads the secret of its own role and every `.public` file.
"""

import hashlib
import os
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import zmq
from zmq.utils import z85

from common.errors import SettingsError
from common.messages.speakers import ROLES, Speaker

_KEY_BYTES = 32
_ID_DIGITS = 16


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A role's two keys, in Z85."""

    public: bytes
    secret: bytes


def key_id(public: bytes) -> str:
    """Give the short name by which addresses and logs call a public key."""
    return hashlib.sha256(public).hexdigest()[:_ID_DIGITS]


class Keyring:
    """This process's own key pair, and the allow-list of all roles."""

    def __init__(self, folder: Path, role: Speaker) -> None:
        """Read the folder.

        Raises:
            SettingsError: A file is missing or holds no keys, or peers would not know this process.
        """
        self._folder = folder
        self.own = _read_pair(folder, role)
        self._known = _read_public(folder)
        self._turns = count()
        if self.role_of(self.own.public) != role:
            raise SettingsError(
                f"the key of {folder / role}.secret is not in {role}.public: copy both from where"
                " `glinthawk keys create` made them"
            )

    def reload(self) -> None:
        """Read the allow-list again; the own key pair stays.

        Raises:
            SettingsError: A file is missing or holds no keys. The old list stays.
        """
        self._known = _read_public(self._folder)

    def role_of(self, public: bytes) -> Speaker | None:
        """Give the role that a key proves; None for a key that is not in the list."""
        return self._known.get(public)

    def named(self, wanted: str) -> bytes | None:
        """Give the known key of this short name."""
        return next((public for public in self._known if key_id(public) == wanted), None)

    def router_key(self) -> bytes:
        """Give a key that the router may have: while there are several, each in turn."""
        keys = [public for public, role in self._known.items() if role == "router"]
        return keys[next(self._turns) % len(keys)]


def create_keys(folder: Path, beside: Path | None = None) -> dict[Speaker, str]:
    """Make a key pair for every role.

    Args:
        folder: Made, open to its owner alone.
        beside: A folder whose public keys are allowed, too, while its processes still run.

    Returns:
        The short names of the new public keys.

    Raises:
        SettingsError: There are keys in the folder, or it cannot be written; nothing was overwritten.
    """
    earlier = _read_public(beside) if beside else {}
    made = {role: KeyPair(*zmq.curve_keypair()) for role in ROLES}
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        taken = [path for role in ROLES for path in _files(folder, role) if path.exists()]
        if taken:
            raise SettingsError(f"{taken[0]} exists: keys are never overwritten, give a new folder")
        for role, pair in made.items():
            secret, public = _files(folder, role)
            others = [key for key, its_role in earlier.items() if its_role == role]
            write_secret(public, [pair.public, *others])
            write_secret(secret, [pair.secret])
    except OSError as error:
        raise SettingsError(f"{folder} cannot be written: {error.strerror}") from None
    return {role: key_id(pair.public) for role, pair in made.items()}


def find_keys(folder: Path) -> dict[Speaker, str]:
    """Give the short names of the keys of all roles; none if there are none at all.

    Raises:
        SettingsError: Some are there, some not, or they do not belong together.
    """
    if not any(path.exists() for role in ROLES for path in _files(folder, role)):
        return {}
    return {role: key_id(Keyring(folder, role).own.public) for role in ROLES}


def write_secret(path: Path, lines: Iterable[bytes]) -> None:
    """Write a new file that only its owner can read.

    Raises:
        OSError: It exists, or cannot be written.
    """
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.writelines(line + b"\n" for line in lines)


def _files(folder: Path, role: Speaker) -> tuple[Path, Path]:
    return folder / f"{role}.secret", folder / f"{role}.public"


def _read_pair(folder: Path, role: Speaker) -> KeyPair:
    secret, *more = _read_keys(_files(folder, role)[0])
    if more:
        raise SettingsError(f"{_files(folder, role)[0]} holds several keys: leave one in it")
    return KeyPair(zmq.curve_public(secret), secret)


def _read_public(folder: Path) -> Mapping[bytes, Speaker]:
    known: dict[bytes, Speaker] = {}
    for role in ROLES:
        for public in _read_keys(_files(folder, role)[1]):
            if known.setdefault(public, role) != role:
                raise SettingsError(
                    f"{role} and {known[public]} share a key in {folder}: a key proves one role"
                )
    return known


def _read_keys(path: Path) -> list[bytes]:
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise SettingsError(
            f"{path} cannot be read ({error.strerror}): `glinthawk keys create` makes it"
        ) from None
    keys = [key for line in lines if (key := line.strip())]
    if not keys or not all(map(_is_key, keys)):
        raise SettingsError(f"{path} holds no keys of 40 characters: copy it again")
    return keys


def _is_key(text: bytes) -> bool:
    try:
        return len(z85.decode(text)) == _KEY_BYTES
    except (KeyError, ValueError, struct.error):
        return False
