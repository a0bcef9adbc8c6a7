"""Where an inbox may be bound and what a peer's address may look like."""

import ipaddress
import re
import socket
from pathlib import Path

from common.errors import SettingsError
from common.ids import Endpoint

_TCP = re.compile(r"tcp://(\[[^\[\]]+\]|[^:\[\]]+):([0-9]{1,5}|\*)")
_KEY_ID = re.compile(r"[0-9a-f]{16}")
_IPC = re.compile(r"ipc://(.+)")
_MAX_PORT = 65535


def is_address(endpoint: Endpoint) -> bool:
    """Tell whether this is `tcp://HOST:PORT` or `ipc://PATH`; no other transport is spoken."""
    endpoint, key_id = split_key(endpoint)
    if key_id is not None and not _KEY_ID.fullmatch(key_id):
        return False
    tcp = _TCP.fullmatch(endpoint)
    # libzmq takes a port above the largest, and wraps it around.
    return bool(_IPC.fullmatch(endpoint) or (tcp and (tcp[2] == "*" or int(tcp[2]) <= _MAX_PORT)))


def split_key(endpoint: Endpoint) -> tuple[Endpoint, str | None]:
    """Take an address of a locked inbox, `tcp://HOST:PORT#KEY_ID`, apart; others have no key."""
    if not endpoint.startswith("tcp://"):
        return endpoint, None
    place, mark, key_id = endpoint.partition("#")
    return Endpoint(place), key_id if mark else None


def is_open(endpoint: Endpoint) -> bool:
    """Tell whether what is said at this address could be heard by the network."""
    tcp = _TCP.fullmatch(endpoint)
    return not _IPC.fullmatch(endpoint) and (tcp is None or is_open_host(tcp[1]))


def demand_bindable(endpoint: Endpoint, *, guarded: bool) -> None:
    """Refuse an address that would endanger others.

    Args:
        endpoint: The address that the inbox is to have.
        guarded: Keys guard it, or the user accepts that anyone in the network may speak to it.

    Raises:
        SettingsError: It is no address, it opens this machine to the network, or another process
            lives there.
    """
    if not is_address(endpoint):
        raise SettingsError(f"{endpoint} is no address: set `bind` to tcp://IP:PORT or ipc://PATH")
    ipc = _IPC.fullmatch(endpoint)
    if ipc:
        _demand_free_path(ipc[1])
    elif not guarded and is_open(endpoint):
        raise SettingsError(
            f"{endpoint} would listen to the network without keys: give --key-directory"
            " (`glinthawk keys create` makes one), bind a loopback address, or pass --insecure if"
            " everyone in the network is trusted"
        )


def demand_reachable(endpoint: Endpoint, *, guarded: bool) -> None:
    """Refuse to speak in the clear where the network could listen.

    Raises:
        SettingsError: It would be.
    """
    if not guarded and is_open(endpoint):
        raise SettingsError(
            f"{endpoint} is beyond this machine and there are no keys: give --key-directory, the"
            " router's, or pass --insecure if everyone in the network is trusted"
        )


def remove_socket_file(endpoint: Endpoint) -> None:
    """Clear an ipc address that this process leaves; libzmq does not."""
    ipc = _IPC.fullmatch(endpoint)
    if ipc:
        Path(ipc[1]).unlink(missing_ok=True)


def is_open_host(host: str) -> bool:
    """Tell whether a host, by name or address, is more than this machine talking to itself."""
    if host in ("localhost", "lo"):
        return False
    try:
        return not ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return True


def _demand_free_path(path: str) -> None:
    # libzmq removes whatever lies at the path: a file, or the inbox of a living process.
    place = Path(path)
    if not place.exists():
        return
    if not place.is_socket():
        raise SettingsError(f"{path} is a file: set `bind` to another ipc:// path")
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
        except OSError:
            return
    raise SettingsError(f"ipc://{path} is in use by another process: change the setting `bind`")
