"""Messages get lost, doubled, late and overtaken: every line ends with the tokens of a quiet run."""

from collections.abc import Iterator, Sequence

import pytest

from common.messages import (
    AttentionRequest,
    AttentionResult,
    ForwardMicrobatch,
    HiddenStates,
    Message,
    PagesReleased,
    PagesReserved,
    Registered,
    ReleasePages,
    ReservePages,
    SampledTokens,
)
from services.admin.inline_bus import MESSAGE_S
from tests.support.faults import EVERY, arrives, play, quiet_tokens
from tests.support.inline import one_thread, tokens

NUMBERS = {
    ForwardMicrobatch: (2, 25),
    HiddenStates: (2, 25),
    AttentionRequest: (3, 120),
    AttentionResult: (3, 120),
    SampledTokens: (2, 25),
    ReservePages: (2, 5),
    PagesReserved: (2, 5),
    ReleasePages: (2, 5),
    PagesReleased: (2, 5),
    Registered: (2, 5),
}
"""Which messages of each kind it happens to: one early, one late in the job.

Not those kinds that are said once and for as long as a link lives: losing one is losing the link.
"""

FATES = {
    "lost": (),
    "doubled": (MESSAGE_S, MESSAGE_S),
    "doubled later": (MESSAGE_S, 0.03),
    "overtaken": (0.03,),
    "just after its deadline": (10.002,),
    "well after its deadline": (10.05,),
}
"""Seconds until each copy arrives."""


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    with one_thread():
        yield


@pytest.mark.slow
@pytest.mark.parametrize("delays_s", FATES.values(), ids=FATES.keys())
@pytest.mark.parametrize("kind", NUMBERS, ids=lambda kind: kind.TAG)
def test_a_message_may_have_any_fate(kind: type[Message], delays_s: Sequence[float]) -> None:
    actions = {(kind, number): arrives(*delays_s) for number in NUMBERS[kind]}

    outcomes = play(actions)

    assert tokens(outcomes) == quiet_tokens()


@pytest.mark.slow
@pytest.mark.parametrize("echo_s", [0.02, 0.05, 0.09])
def test_an_echo_changes_no_page_that_has_a_new_owner(echo_s: float) -> None:
    actions = {
        (AttentionRequest, EVERY): arrives(MESSAGE_S, echo_s),
        # While this one is missed, workers are not told that the later ones have ended.
        (ForwardMicrobatch, 1): arrives(),
    }

    outcomes = play(actions)

    assert tokens(outcomes) == quiet_tokens()
