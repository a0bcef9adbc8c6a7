"""Who may say what."""

import pytest
from hypothesis import given, settings

from common.errors import WireError
from common.ids import Epoch, WorkerId
from common.messages import MESSAGES, Message, RegisterRefused, WorkerLost
from common.messages.speakers import ROLES, SPEAKERS, Speaker, demand_may_say
from tests.support.messages import all_messages
from tests.support.router import register

LOST = WorkerLost(worker_id=WorkerId("w"), epoch=Epoch(1))


def may_say(role: Speaker, message: Message, sender: str = "") -> bool:
    try:
        demand_may_say(role, WorkerId(sender or (role if role == "router" else "w")), message)
    except WireError:
        return False
    return True


def test_every_message_has_its_speakers() -> None:
    assert SPEAKERS.keys() == {*MESSAGES.values()}
    assert all(roles and roles <= {*ROLES} for roles in SPEAKERS.values())


@settings(max_examples=20)
@given(message=all_messages())
def test_some_role_may_say_each_message(message: Message) -> None:
    assert any(may_say(role, message) for role in ROLES)


def test_nobody_but_the_router_ends_a_worker() -> None:
    refusal = RegisterRefused(reason="go")

    assert [role for role in ROLES if may_say(role, refusal)] == ["router"]


@pytest.mark.parametrize("role", [role for role in ROLES if role != "router"])
def test_nobody_but_the_router_goes_by_its_name(role: Speaker) -> None:
    assert may_say(role, LOST)
    assert not may_say(role, LOST, sender="router")
    assert not may_say("router", LOST, sender="w")
    assert may_say("router", LOST)


def test_a_worker_registers_as_what_its_key_says() -> None:
    assert may_say("attention_worker", register("w", "attention_worker"))
    assert not may_say("attention_worker", register("w", "kv_manager"))
    assert not may_say("router", register("w", "router"), sender="router")
