"""Probes see whether the loop turns and whether there can be work."""

import pytest
from prometheus_client import CollectorRegistry

from common.runtime.health import Health


def ask(health: Health, path: str) -> tuple[str, bytes]:
    answered: list[str] = []
    body = health.answer(
        {"PATH_INFO": path, "REQUEST_METHOD": "GET"}, lambda status, _: answered.append(status)
    )
    return answered[0], b"".join(body)


@pytest.fixture
def seconds() -> list[float]:
    return [100.0]


@pytest.fixture
def ready() -> list[bool]:
    return [False]


@pytest.fixture
def health(seconds: list[float], ready: list[bool]) -> Health:
    return Health(CollectorRegistry(), lambda: ready[0], lambda: seconds[0])


def test_a_loop_that_turned_just_now_is_alive(health: Health, seconds: list[float]) -> None:
    seconds[0] += 4.9

    assert ask(health, "/livez") == ("200 OK", b"ok\n")


def test_a_loop_that_is_stuck_is_not_alive_until_it_turns(
    health: Health, seconds: list[float]
) -> None:
    seconds[0] += 5.1
    assert ask(health, "/livez") == ("503 Service Unavailable", b"stuck\n")

    health.turn()

    assert ask(health, "/livez")[0] == "200 OK"


def test_readiness_is_asked_each_time(health: Health, ready: list[bool]) -> None:
    assert ask(health, "/readyz") == ("503 Service Unavailable", b"not ready\n")

    ready[0] = True

    assert ask(health, "/readyz") == ("200 OK", b"ok\n")


def test_other_paths_say_what_can_be_asked(health: Health) -> None:
    status, body = ask(health, "/")

    assert status == "404 Not Found"
    assert b"/livez, /readyz or /metrics" in body
