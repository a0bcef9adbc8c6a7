"""`glinthawk keys`: make the keys of links and of the HTTP API."""

import json
from pathlib import Path
from typing import TextIO

from common.wire.keys import create_keys, find_keys
from services.router.http.keys import Scope, add_api_key


def create(folder: Path, beside: Path | None, out: TextIO, *, keep: bool, as_json: bool) -> None:
    """Make a key pair for every role, and list their short names.

    Args:
        folder: For the keys.
        beside: A folder whose public keys stay allowed, if there is one.
        out: Where to list them.
        keep: If the folder has all keys already, only list them.
        as_json: For scripts.

    Raises:
        SettingsError: There are keys already, or the folder cannot be written.
    """
    made = (find_keys(folder) if keep else {}) or create_keys(folder, beside)
    if as_json:
        out.write(json.dumps({"directory": str(folder), "keys": made}) + "\n")
        return
    for role, key_id in made.items():
        out.write(f"{role:17} {key_id}\n")
    out.write(f"give every process --key-directory {folder}; each needs its own .secret only\n")


def show_api_key(path: Path, name: str, scope: Scope, out: TextIO, *, as_json: bool) -> None:
    """Make a key of the HTTP API and show it.

    Raises:
        SettingsError: The name is taken, or the file cannot be written.
    """
    key = add_api_key(path, name, scope)
    shown = {"name": name, "scope": scope, "key": key}
    out.write((json.dumps(shown) if as_json else key) + "\n")
