"""Where an inbox may be bound."""

from pathlib import Path

import pytest

from common.errors import SettingsError
from common.ids import Endpoint
from common.wire.addresses import (
    demand_bindable,
    demand_reachable,
    is_address,
    is_open_host,
    split_key,
)


@pytest.mark.parametrize(
    "endpoint",
    ["tcp://127.0.0.1:*", "tcp://localhost:0", "tcp://[::1]:65535", "ipc:///run/a", "ipc://@a"],
)
def test_addresses_of_this_machine_are_fine(endpoint: str) -> None:
    demand_bindable(Endpoint(endpoint), guarded=False)


@pytest.mark.parametrize(
    "endpoint",
    ["", "tcp://", "127.0.0.1:1", "tcp://a", "tcp://a:65536", "tcp://a:-1", "inproc://a", "ipc://"],
)
def test_what_is_no_address_is_refused(endpoint: str) -> None:
    assert not is_address(Endpoint(endpoint))
    with pytest.raises(SettingsError, match="no address"):
        demand_bindable(Endpoint(endpoint), guarded=True)


@pytest.mark.parametrize(
    "endpoint", ["tcp://*:5555", "tcp://0.0.0.0:1", "tcp://10.0.0.7:1", "tcp://eth0:1"]
)
def test_the_network_is_let_in_only_if_asked_for(endpoint: str) -> None:
    with pytest.raises(SettingsError, match="--insecure"):
        demand_bindable(Endpoint(endpoint), guarded=False)

    demand_bindable(Endpoint(endpoint), guarded=True)


def test_a_file_is_never_bound_over(tmp_path: Path) -> None:
    file = tmp_path / "notes"
    file.write_text("mine")

    with pytest.raises(SettingsError, match="is a file"):
        demand_bindable(Endpoint(f"ipc://{file}"), guarded=False)


def test_the_network_is_spoken_to_only_with_keys_or_if_asked_for() -> None:
    with pytest.raises(SettingsError, match="--key-directory"):
        demand_reachable(Endpoint("tcp://router:7400"), guarded=False)

    demand_reachable(Endpoint("tcp://router:7400"), guarded=True)
    demand_reachable(Endpoint("tcp://localhost:7400"), guarded=False)


@pytest.mark.parametrize(
    ("endpoint", "apart"),
    [
        ("tcp://a:1#0123456789abcdef", ("tcp://a:1", "0123456789abcdef")),
        ("tcp://a:1", ("tcp://a:1", None)),
        ("tcp://a:1#", ("tcp://a:1", "")),
        ("ipc:///a#b", ("ipc:///a#b", None)),
    ],
)
def test_an_address_may_name_a_key(endpoint: str, apart: tuple[str, str | None]) -> None:
    assert split_key(Endpoint(endpoint)) == apart


@pytest.mark.parametrize("mark", ["#", "#0123", "#0123456789abcdeX", "#0123456789abcdef0"])
def test_an_address_with_half_a_key_is_no_address(mark: str) -> None:
    assert not is_address(Endpoint(f"tcp://a:1{mark}"))
    assert is_address(Endpoint("tcp://a:1#0123456789abcdef"))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.0.1", "::1", "[::1]", "localhost", "lo"])
def test_a_host_that_only_this_machine_reaches_is_not_open(host: str) -> None:
    assert not is_open_host(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "*", "10.0.0.7", "router", "", "eth0"])
def test_every_other_host_is_open(host: str) -> None:
    assert is_open_host(host)
