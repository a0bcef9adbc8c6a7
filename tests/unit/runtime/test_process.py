"""A process has a name, an epoch, an address that peers can reach, and one-line errors."""

import os
import signal
import socket

import pytest

from common.config import ServiceSettings
from common.errors import SettingsError
from common.ids import Endpoint, Epoch
from common.runtime.counters import Counters
from common.runtime.effects import Run, Stop, StopRequested
from common.runtime.fence import WorkerFence
from common.runtime.loop import ServiceLoop
from common.runtime.mailbox import Mailbox
from common.runtime.process import (
    advertised,
    draw_identity,
    one_line_errors,
    run_service,
    set_thread_environment,
)
from tests.support.loop import ScriptedState
from tests.support.transport import FakeTransport


class LayerSettings(ServiceSettings):
    section = "layer_worker"


class RouterSettings(ServiceSettings):
    section = "router"


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        (LayerSettings(host="h", ordinal=2), "h-layer-worker-2"),
        (LayerSettings(host="h"), f"h-layer-worker-{socket.gethostname()}-{os.getpid()}"),
        (LayerSettings(), f"{socket.gethostname()}-layer-worker-{os.getpid()}"),
        (LayerSettings(worker_id="mine"), "mine"),
        (RouterSettings(host="h"), "router"),
    ],
)
def test_a_process_is_named_by_its_settings(settings, name):
    assert draw_identity(settings).worker_id == name


def test_two_lives_have_two_epochs():
    first, second = draw_identity(LayerSettings()), draw_identity(LayerSettings())

    assert first.epoch != second.epoch


@pytest.mark.parametrize(
    ("bound", "advertise", "told"),
    [
        ("tcp://127.0.0.1:5001", None, "tcp://127.0.0.1:5001"),
        ("tcp://0.0.0.0:5001", "tcp://10.0.0.7:*", "tcp://10.0.0.7:5001"),
        ("tcp://0.0.0.0:5001", "tcp://lb:80", "tcp://lb:80"),
        ("ipc:///run/w", None, "ipc:///run/w"),
    ],
)
def test_peers_are_told_an_address_that_they_can_reach(bound, advertise, told):
    settings = LayerSettings(advertise=advertise)

    assert advertised(Endpoint(bound), settings) == told


@pytest.mark.parametrize("key", ["", "#0123456789abcdef"])
def test_an_inbox_on_all_interfaces_is_told_by_the_one_that_leads_to_the_router(key):
    settings = LayerSettings(router_endpoint="tcp://127.0.0.1:7400")

    assert (
        advertised(Endpoint(f"tcp://0.0.0.0:5001{key}"), settings) == f"tcp://127.0.0.1:5001{key}"
    )


@pytest.mark.parametrize("router", ["ipc:///run/router", "tcp://no-such-host.invalid:7400"])
def test_an_inbox_on_all_interfaces_needs_a_way_to_the_router(router):
    with pytest.raises(SettingsError, match="--advertise"):
        advertised(Endpoint("tcp://0.0.0.0:5001"), LayerSettings(router_endpoint=router))


def test_a_refusal_is_one_line_and_exit_code_2(capsys):
    with pytest.raises(SystemExit) as exit_info, one_line_errors():
        raise SettingsError("port 80 is taken")

    assert exit_info.value.code == 2
    assert capsys.readouterr().err == "glinthawk: port 80 is taken\n"


def test_thread_counts_are_set_for_all_math_libraries(monkeypatch):
    environment = {}
    monkeypatch.setattr(os, "environ", environment)

    set_thread_environment(3)

    assert environment["OMP_NUM_THREADS"] == environment["MKL_NUM_THREADS"] == "3"
    assert environment["OMP_WAIT_POLICY"] == "passive"


@pytest.mark.usefixtures("logs_restored")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_becomes_a_request_to_stop(number, monkeypatch):
    monkeypatch.setattr(os, "environ", {})

    def build(settings, identity):
        state = ScriptedState([Run(1)], {StopRequested: lambda _: [Stop("asked")]})
        mailbox = Mailbox(FakeTransport(), WorkerFence(Epoch(1)), Counters())
        return ServiceLoop(state.at, mailbox, compute=lambda work: signal.raise_signal(number))

    exit_code = run_service(build, LayerSettings())

    assert exit_code == 0
