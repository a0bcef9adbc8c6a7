"""Where an inbox may be bound and what a peer's address may look like."""

import ipaddress
import re
import socket
from pathlib import Path

from common.errors import SettingsError
from common.ids import Endpoint

_TCP = re.compile(r"tcp://(\[[^\[\]]+\]|[^:\[\]]+):([0-9]{1,5}|\*)")
_IPC = re.compile(r"ipc://(.+)")
_MAX_PORT = 65535


def is_address(endpoint: Endpoint) -> bool:
    """Tell whether this is `tcp://HOST:PORT` or `ipc://PATH`; no other transport is spoken."""
    tcp = _TCP.fullmatch(endpoint)
    # libzmq takes a port above the largest, and wraps it around.
    return bool(_IPC.fullmatch(endpoint) or (tcp and (tcp[2] == "*" or int(tcp[2]) <= _MAX_PORT)))


def demand_bindable(endpoint: Endpoint, *, insecure: bool) -> None:
    """Refuse an address that would endanger others.

    Args:
        endpoint: The address that the inbox is to have.
        insecure: The user accepts that anyone in the network may speak to it.

    Raises:
        SettingsError: It is no address, it opens this machine to the network, or another process
            lives there.
    """
    if not is_address(endpoint):
        raise SettingsError(f"{endpoint} is no address: set `bind` to tcp://IP:PORT or ipc://PATH")
    ipc = _IPC.fullmatch(endpoint)
    if ipc:
        _demand_free_path(ipc[1])
    elif not insecure and not _is_loopback(endpoint):
        raise SettingsError(
            f"{endpoint} would listen to the network without encryption: bind a loopback address,"
            " or pass --insecure if the network is trusted"
        )


def remove_socket_file(endpoint: Endpoint) -> None:
    """Clear an ipc address that this process leaves; libzmq does not."""
    ipc = _IPC.fullmatch(endpoint)
    if ipc:
        Path(ipc[1]).unlink(missing_ok=True)


def _is_loopback(endpoint: Endpoint) -> bool:
    tcp = _TCP.fullmatch(endpoint)
    assert tcp is not None
    host = tcp[1].strip("[]")
    if host in ("localhost", "lo"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


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
