"""Messages get lost, doubled, late and overtaken: every line ends with the tokens of a quiet run.

The matrix has a row for every message that there is, and a column for everything that can happen to
one. Its one outcome is the same everywhere: nobody can tell from the results that it happened.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from common.messages import (
    MESSAGES,
    AttentionRequest,
    AttentionResult,
    Drain,
    DrainWanted,
    ForwardMicrobatch,
    Heartbeat,
    HiddenStates,
    Message,
    PagesFilled,
    PagesReleased,
    PagesReserved,
    PoolsCounted,
    PrefixAwaited,
    Register,
    Registered,
    RegisterRefused,
    ReleasePages,
    ReservePages,
    ReserveRefused,
    RouterHeartbeat,
    SampledTokens,
    SpeedsMeasured,
    StepFailed,
    Tables,
    TablesWanted,
    WorkerJoined,
    WorkerLeaving,
    WorkerLost,
    WorkerReady,
    WriteRequest,
    Written,
)
from services.admin.inline import KV_MANAGER, attention_worker, layer_worker
from services.admin.inline_bus import MESSAGE_S
from services.router.drains import DrainWorker
from tests.support.faults import (
    EVERY,
    Action,
    Moment,
    arrives,
    comes_from_the_past,
    dies,
    hangs,
    is_stopped,
    is_told,
    play,
    quiet_tokens,
)
from tests.support.inline import one_thread, tokens

SOME, FIRST = attention_worker(0), layer_worker(0)


@dataclass(frozen=True, kw_only=True)
class Row:
    """Which messages of a kind it happens to, and what must happen for them to be said."""

    numbers: tuple[int, ...]
    because: Mapping[Moment, Action] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)


LATE_DEATH = {(AttentionRequest, 60): dies(SOME)}
LATE_LOSS = {(AttentionRequest, 60): dies(KV_MANAGER)}
LOCAL = {"prefill_attention": "tier1"}

ROWS: dict[type[Message], Row] = {
    Register: Row(numbers=(1,), because=LATE_DEATH),
    Registered: Row(numbers=(2, 5)),
    RegisterRefused: Row(numbers=(1,), because={(AttentionRequest, 30): hangs(FIRST)}),
    WorkerReady: Row(numbers=(2, 5)),
    Heartbeat: Row(numbers=(2,), because=LATE_DEATH),
    RouterHeartbeat: Row(numbers=(2,), because=LATE_DEATH),
    Drain: Row(
        numbers=(1,),
        because={(AttentionRequest, 30): is_told(DrainWorker(worker_id=SOME, deadline_s=0.01))},
    ),
    DrainWanted: Row(numbers=(1,), because={(AttentionRequest, 30): is_stopped(SOME)}),
    WorkerLeaving: Row(numbers=(1,), because={(AttentionRequest, 30): is_stopped(SOME)}),
    WorkerJoined: Row(numbers=(1, 2)),
    WorkerLost: Row(numbers=(1,), because=LATE_DEATH),
    ReservePages: Row(numbers=(2, 5)),
    PagesReserved: Row(numbers=(2, 5)),
    ReserveRefused: Row(numbers=(1, 2), settings={"kv_memory": 100 << 10}),
    PrefixAwaited: Row(numbers=(1,), settings={"kv_memory": 1 << 20}),
    PagesFilled: Row(numbers=(1, 4)),
    ReleasePages: Row(numbers=(2, 5)),
    PagesReleased: Row(numbers=(2, 5)),
    TablesWanted: Row(numbers=(1, 2), because=LATE_LOSS),
    Tables: Row(numbers=(1, 2), because=LATE_LOSS),
    SpeedsMeasured: Row(numbers=(1,), because=LATE_DEATH),
    PoolsCounted: Row(numbers=(1,), because=LATE_DEATH),
    ForwardMicrobatch: Row(numbers=(2, 25)),
    HiddenStates: Row(numbers=(2, 25)),
    AttentionRequest: Row(numbers=(3, 120)),
    AttentionResult: Row(numbers=(3, 120)),
    WriteRequest: Row(numbers=(2, 9), settings=LOCAL),
    Written: Row(numbers=(2, 9), settings=LOCAL),
    SampledTokens: Row(numbers=(2, 25)),
    StepFailed: Row(numbers=(1,), because=LATE_DEATH),
}

FATES: dict[str, Action] = {
    "lost": arrives(),
    "doubled": arrives(MESSAGE_S, MESSAGE_S),
    "doubled later": arrives(MESSAGE_S, 0.03),
    "overtaken": arrives(0.03),
    "just after its deadline": arrives(10.002),
    "well after its deadline": arrives(10.05),
    "of an earlier term": comes_from_the_past(terms=1),
    "for another life": comes_from_the_past(epochs=1000),
}


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    with one_thread():
        yield


def test_every_message_has_its_row() -> None:
    assert set(ROWS) == set(MESSAGES.values())


@pytest.mark.slow
@pytest.mark.parametrize("fate", FATES.values(), ids=FATES.keys())
@pytest.mark.parametrize("kind", ROWS, ids=lambda kind: kind.TAG)
def test_a_message_may_have_any_fate(kind: type[Message], fate: Action) -> None:
    row = ROWS[kind]
    actions = {**row.because, **{(kind, number): fate for number in row.numbers}}

    outcomes = play(actions, **row.settings)

    assert tokens(outcomes) == quiet_tokens(**row.settings)


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
