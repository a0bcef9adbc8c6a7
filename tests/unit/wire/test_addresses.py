"""Where an inbox may be bound."""

from pathlib import Path

import pytest

from common.errors import SettingsError
from common.ids import Endpoint
from common.wire.addresses import demand_bindable, is_address


@pytest.mark.parametrize(
    "endpoint",
    ["tcp://127.0.0.1:*", "tcp://localhost:0", "tcp://[::1]:65535", "ipc:///run/a", "ipc://@a"],
)
def test_addresses_of_this_machine_are_fine(endpoint: str) -> None:
    demand_bindable(Endpoint(endpoint), insecure=False)


@pytest.mark.parametrize(
    "endpoint",
    ["", "tcp://", "127.0.0.1:1", "tcp://a", "tcp://a:65536", "tcp://a:-1", "inproc://a", "ipc://"],
)
def test_what_is_no_address_is_refused(endpoint: str) -> None:
    assert not is_address(Endpoint(endpoint))
    with pytest.raises(SettingsError, match="no address"):
        demand_bindable(Endpoint(endpoint), insecure=True)


@pytest.mark.parametrize(
    "endpoint", ["tcp://*:5555", "tcp://0.0.0.0:1", "tcp://10.0.0.7:1", "tcp://eth0:1"]
)
def test_the_network_is_let_in_only_if_asked_for(endpoint: str) -> None:
    with pytest.raises(SettingsError, match="--insecure"):
        demand_bindable(Endpoint(endpoint), insecure=False)

    demand_bindable(Endpoint(endpoint), insecure=True)


def test_a_file_is_never_bound_over(tmp_path: Path) -> None:
    file = tmp_path / "notes"
    file.write_text("mine")

    with pytest.raises(SettingsError, match="is a file"):
        demand_bindable(Endpoint(f"ipc://{file}"), insecure=False)
