"""A cluster's options become a plan, or are refused before anything starts."""

import socket
from pathlib import Path

import pytest

from common.errors import GlinthawkError, SettingsError
from services.admin.options import make_plan

MODEL = str(Path(__file__).parents[3] / "examples/tiny/model")


def test_what_was_not_typed_is_left_to_the_services() -> None:
    plan = make_plan({"model": MODEL, "block_size": None, "kv_memory": None})

    assert plan.router == {"model": MODEL}
    assert plan.layer_workers == plan.attention_workers == 1


def test_what_was_typed_goes_to_the_service_that_it_is_for() -> None:
    plan = make_plan({"model": MODEL, "block_size": 16, "kv_memory": "1MiB", "threads": 3})

    assert plan.router["block_size"] == 16
    assert plan.attention["kv_memory"] == "1MiB"
    assert plan.threads_per_worker() == 3


def test_what_is_for_every_process_is_no_option_of_one() -> None:
    plan = make_plan({"model": MODEL, "link_delay_ms": "2.5", "trace_directory": "traces"})

    assert plan.shared == {"link_delay_ms": "2.5", "trace_directory": "traces"}
    assert plan.router == {"model": MODEL}


def test_the_environment_decides_what_was_not_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLINTHAWK_ROUTER__MODEL", MODEL)
    monkeypatch.setenv("GLINTHAWK_ROUTER__LAYER_WORKERS", "2")
    monkeypatch.setenv("GLINTHAWK_ROUTER__ATTENTION_WORKERS", "2")

    plan = make_plan({"attention_workers": 3})

    assert (plan.router["model"], plan.layer_workers, plan.attention_workers) == (MODEL, 2, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "no model: give --model"),
        ({"model": "./nowhere"}, "./nowhere is not a directory"),
        ({"model": MODEL, "layer_workers": 5}, "5 layer workers for 4 layers"),
        ({"model": MODEL, "layer_workers": 0}, "--layer-workers"),
        ({"model": MODEL, "max_model_len": 513}, "beyond the model's 512"),
        ({"model": MODEL, "dtype": "int3"}, "--dtype"),
        ({"model": MODEL, "kv_memory": "much"}, "--kv-memory"),
        ({"model": MODEL, "link_delay_ms": "-1"}, "--link-delay-ms"),
    ],
)
def test_what_cannot_run_is_refused_before_it_starts(
    options: dict[str, object], message: str
) -> None:
    with pytest.raises(GlinthawkError, match=message):
        make_plan(options)


def test_a_port_in_use_is_refused_before_anything_starts() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        with pytest.raises(SettingsError, match=f"127.0.0.1:{port} cannot be had"):
            make_plan({"model": MODEL}, http_port=port)
