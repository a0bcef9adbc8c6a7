"""API keys: who may use the HTTP API, and for what. Kept as hashes, so that the file gives none away.

    NAME SCOPE SHA-256

is a line of the file. A key is 256 random bits, which no one guesses from its hash; the slow hashes
that passwords need would only slow the API down.
"""

import hashlib
import hmac
import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, get_args

from common.errors import SettingsError

Scope = Literal["api", "admin"]
"""`api` is for jobs and completions; `admin` is for everything."""

SCOPES: Final[tuple[Scope, ...]] = get_args(Scope)

_KEY_BYTES: Final = 32
_MARK: Final = "gh-"


@dataclass(frozen=True, slots=True)
class ApiKey:
    """What is known about a key: whose it is, and how to recognise it."""

    name: str
    scope: Scope
    digest: str
    """SHA-256 in hex."""


class ApiKeys:
    """The keys that the API takes."""

    def __init__(self, path: Path) -> None:
        """Read the file.

        Raises:
            SettingsError: It cannot be read, or a line of it is no key.
        """
        self._path = path
        self._keys = read_api_keys(path)

    def reload(self) -> None:
        """Read the file again.

        Raises:
            SettingsError: It cannot be read, or a line of it is no key. The old keys stay.
        """
        self._keys = read_api_keys(self._path)

    def find(self, given: str) -> ApiKey | None:
        """Give what is known about a key; takes as long whichever it is, or if it is none."""
        digest = _digest(given)
        found = None
        for key in self._keys:
            if hmac.compare_digest(key.digest, digest):
                found = key
        return found


def read_api_keys(path: Path) -> tuple[ApiKey, ...]:
    """Read a file of keys.

    Raises:
        SettingsError: It cannot be read, or a line of it is no key.
    """
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"the API keys {path} cannot be read ({error}): `glinthawk keys api-key` makes them"
        ) from None
    return tuple(
        _parse(line, f"{path}, line {number}") for number, line in enumerate(lines, 1) if line
    )


def add_api_key(path: Path, name: str, scope: Scope) -> str:
    """Draw a key and append it to a file, which is made if it is not there.

    Returns:
        The key; it is not kept anywhere.

    Raises:
        SettingsError: The name is taken or no name, or the file cannot be written.
    """
    if not name.isascii() or not name.isprintable() or name.split() != [name]:
        raise SettingsError(f"{name!r} is no name for a key: give one word of ASCII")
    if path.exists() and any(key.name == name for key in read_api_keys(path)):
        raise SettingsError(f"{path} has a key of {name}: give another name, or delete its line")
    drawn = _MARK + secrets.token_urlsafe(_KEY_BYTES)
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "w") as file:
            file.write(f"{name} {scope} {_digest(drawn)}\n")
    except OSError as error:
        raise SettingsError(f"{path} cannot be written: {error.strerror}") from None
    return drawn


def _parse(line: str, where: str) -> ApiKey:
    match line.split():
        case [name, scope, digest] if scope in SCOPES and len(digest) == len(_digest("")):
            return ApiKey(name, scope, digest)
    raise SettingsError(f"{where} is not NAME SCOPE SHA-256: delete it, and make the key again")


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()
