"""Workers die, hang and start again: every line ends with the tokens of a quiet run."""

from collections.abc import Iterator, Sequence

import pytest

from common.ids import WorkerId
from common.messages import (
    AttentionRequest,
    ForwardMicrobatch,
    HiddenStates,
    Message,
    PagesReleased,
    PagesReserved,
    ReleasePages,
    ReservePages,
    SampledTokens,
)
from common.runtime.fence import ROUTER_ID
from services.admin.inline import KV_MANAGER, attention_worker, layer_worker
from services.admin.inline_bus import MESSAGE_S
from tests.support.faults import (
    dies,
    hangs,
    is_stopped,
    make,
    play,
    quiet_tokens,
    some_lines,
    stands_still,
)
from tests.support.inline import one_thread, tokens

FIRST, LAST = layer_worker(0), layer_worker(1)
SOME, OTHER = attention_worker(0), attention_worker(1)
EVERYBODY = (ROUTER_ID, KV_MANAGER, FIRST, LAST, SOME, OTHER)
WORKERS = EVERYBODY[1:]


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    with one_thread():
        yield


@pytest.mark.slow
@pytest.mark.parametrize("back_after_s", [0.0, 5.0])
@pytest.mark.parametrize(
    "moment",
    [
        (ForwardMicrobatch, 1),
        (AttentionRequest, 30),
        (HiddenStates, 20),
        (SampledTokens, 30),
        (PagesReserved, 2),
        (ReleasePages, 3),
    ],
    ids=lambda moment: moment[0].TAG,
)
@pytest.mark.parametrize("worker_id", EVERYBODY)
def test_a_worker_may_die_at_any_moment(
    worker_id: WorkerId, moment: tuple[type[Message], int], back_after_s: float
) -> None:
    outcomes = play({moment: dies(worker_id, back_after_s=back_after_s)})

    assert tokens(outcomes) == quiet_tokens()


@pytest.mark.slow
def test_an_attention_worker_may_stay_away() -> None:
    outcomes = play({(AttentionRequest, 60): dies(SOME, back_after_s=None)})

    assert tokens(outcomes) == quiet_tokens()


@pytest.mark.slow
@pytest.mark.parametrize("back_after_s", [0.0, 5.0])
def test_everybody_may_die_at_once(back_after_s: float) -> None:
    actions = {(AttentionRequest, 50): dies(*EVERYBODY, back_after_s=back_after_s)}

    outcomes = play(actions)

    assert tokens(outcomes) == quiet_tokens()


@pytest.mark.slow
def test_a_worker_may_die_again_and_again() -> None:
    actions = {
        (AttentionRequest, 30): dies(SOME),
        (AttentionRequest, 60): dies(OTHER),
        (AttentionRequest, 90): dies(SOME),
        (HiddenStates, 40): dies(LAST),
        (ReservePages, 12): dies(KV_MANAGER),
        (SampledTokens, 33): dies(ROUTER_ID),
        (PagesReleased, 3): dies(KV_MANAGER),
    }

    outcomes = play(actions)

    assert tokens(outcomes) == quiet_tokens()


@pytest.mark.slow
@pytest.mark.parametrize("worker_id", EVERYBODY)
def test_a_worker_may_be_cut_off_for_a_while(worker_id: WorkerId) -> None:
    def fate(sender: WorkerId, receiver: WorkerId, message: Message) -> Sequence[float]:
        is_cut_off = worker_id in (sender, receiver) and 0.1 < cluster.bus.clock.now() < 8.0
        return () if is_cut_off else (MESSAGE_S,)

    cluster = make()
    cluster.bus.fate = fate

    outcomes = cluster.generate(some_lines())

    assert tokens(outcomes) == quiet_tokens()


@pytest.mark.slow
@pytest.mark.parametrize("for_s", [2.0, 8.0, 60.0])
@pytest.mark.parametrize("worker_id", EVERYBODY)
def test_a_process_may_stand_still_and_wake_up_as_a_zombie(
    worker_id: WorkerId, for_s: float
) -> None:
    outcomes = play({(AttentionRequest, 40): stands_still(worker_id, for_s)})

    assert tokens(outcomes) == quiet_tokens()


@pytest.mark.slow
@pytest.mark.parametrize("worker_id", [FIRST, LAST, SOME, OTHER])
def test_an_engine_may_hang_while_its_loop_goes_on(worker_id: WorkerId) -> None:
    outcomes = play({(AttentionRequest, 40): hangs(worker_id)})

    assert tokens(outcomes) == quiet_tokens()


@pytest.mark.slow
@pytest.mark.parametrize("worker_id", WORKERS)
def test_a_worker_may_be_stopped_in_order(worker_id: WorkerId) -> None:
    outcomes = play({(AttentionRequest, 40): is_stopped(worker_id)})

    assert tokens(outcomes) == quiet_tokens()


@pytest.mark.slow
def test_a_router_that_dies_again_and_again_loses_only_what_it_had_not_kept() -> None:
    outcomes = play({(SampledTokens, number): dies(ROUTER_ID) for number in (8, 16, 24, 32)})

    assert tokens(outcomes) == quiet_tokens()
