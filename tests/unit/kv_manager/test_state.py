"""The KV manager's decisions: messages in, effects out."""

import tracemalloc
from collections.abc import Iterator

import pytest

from common.ids import Epoch, RequestId, WorkerId
from common.messages import (
    Message,
    PagesReleased,
    PagesReserved,
    Register,
    Registered,
    RegisterRefused,
    SpeedsMeasured,
    WorkerLeaving,
    WorkerLost,
    WorkerSpeed,
)
from common.runtime.effects import Stop, StopRequested
from services.kv_manager.answers import MAX_RELEASED
from services.kv_manager.state import KvManagerState
from tests.support.kv import (
    CPU_0,
    CPU_1,
    NEXT_TERM,
    filled,
    granted,
    hashes,
    joined,
    lost,
    make_state,
    refused,
    release,
    reserve,
    say,
    sent,
)

A, B, C = RequestId(1), RequestId(2), RequestId(3)
REGISTERED = Registered(layers=None, attention=None, heartbeat_s=1)


@pytest.fixture
def state() -> Iterator[KvManagerState]:
    """A KV manager with one pool of four pages of 16 tokens."""
    state = make_state()
    state.handle(joined(), 0.0)
    yield state
    state.check()


# Reservations


def test_a_reservation_returns_only_the_new_pages(state: KvManagerState) -> None:
    first = say(state, reserve(1, A, 32))
    second = say(state, reserve(2, A, 33))
    third = say(state, reserve(3, A, 40))

    assert first == granted(1, A, range(2))
    assert second == granted(2, A, range(2, 3))
    assert third == granted(3, A, range(0))


def test_released_pages_go_to_others(state: KvManagerState) -> None:
    state.handle(reserve(1, A, 64), 0.0)

    assert say(state, release(2, A)) == PagesReleased(number=2, request_id=A)
    assert say(state, reserve(3, B, 64)) == granted(3, B, range(4))


def test_a_request_without_a_home_is_refused_without_victims(state: KvManagerState) -> None:
    state.handle(reserve(1, B, 48), 0.0)

    assert say(state, reserve(2, A, 32)) == refused(2, A, needed=2, available=1)


def test_a_growing_request_is_refused_with_younger_victims(state: KvManagerState) -> None:
    for number, request_id in enumerate((A, B, C), start=1):
        state.handle(reserve(number, request_id, 16), 0.0)

    assert say(state, reserve(4, B, 48)) == refused(4, B, needed=2, available=1, victims=(C,))


def test_the_youngest_finds_no_victim(state: KvManagerState) -> None:
    state.handle(reserve(1, A, 48), 0.0)
    state.handle(reserve(2, B, 16), 0.0)

    assert say(state, reserve(3, B, 32)) == refused(3, B, needed=1, available=0)


def test_what_may_outgrow_every_pool_is_refused_before_it_begins(state: KvManagerState) -> None:
    answer = say(state, reserve(1, A, 16, max_tokens=65))

    assert answer == refused(1, A, needed=5, available=4, fits_never=True)


def test_a_request_lives_only_where_it_cannot_outgrow_its_pool(state: KvManagerState) -> None:
    state.handle(joined(CPU_1, num_pages=8), 0.0)

    assert say(state, reserve(1, A, 16, max_tokens=80)) == granted(1, A, range(1), CPU_1)


def test_nobody_moves_in_where_somebody_lacks_pages(state: KvManagerState) -> None:
    state.handle(reserve(1, A, 32), 0.0)
    state.handle(reserve(2, B, 32), 0.0)
    state.handle(reserve(3, A, 48), 0.0)
    state.handle(release(4, B), 0.0)

    answers = [say(state, reserve(5, C, 16)), say(state, reserve(6, A, 48))]

    assert answers == [refused(5, C, needed=1, available=2), granted(6, A, range(2, 3))]
    assert say(state, reserve(7, C, 16)) == granted(7, C, range(3, 4))


def test_what_moves_in_again_gives_back_what_it_had(state: KvManagerState) -> None:
    state.handle(reserve(1, A, 64), 0.0)

    assert say(state, reserve(2, A, 32, moves_in=True)) == granted(2, A, range(2))


def test_who_is_expected_to_grow_keeps_others_out(state: KvManagerState) -> None:
    state.handle(joined(epoch=2, num_pages=8), 0.0)
    state.handle(reserve(1, A, 16, 128), 0.0)

    assert say(state, reserve(2, B, 96, 128)) == refused(2, B, needed=6, available=7)
    assert say(state, reserve(3, B, 80, 96)) == granted(3, B, range(1, 6), epoch=2)


def test_into_an_empty_pool_moves_whoever_fits(state: KvManagerState) -> None:
    assert say(state, reserve(1, A, 60, 400)) == granted(1, A, range(4))


def test_without_pools_nothing_is_granted_and_nothing_is_hopeless() -> None:
    state = make_state()

    assert say(state, reserve(1, A, 16)) == refused(1, A, needed=1, available=0)


def test_requests_spread_by_expected_tokens(state: KvManagerState) -> None:
    state.handle(joined(num_pages=8, epoch=2), 0.0)
    state.handle(joined(CPU_1, num_pages=8), 0.0)

    answers = [
        say(state, reserve(number, RequestId(number), 16, expected_tokens))
        for number, expected_tokens in enumerate((60, 20, 20, 10), start=1)
    ]

    assert answers == [
        granted(1, RequestId(1), range(1), CPU_0, epoch=2),
        granted(2, RequestId(2), range(1), CPU_1),
        granted(3, RequestId(3), range(1, 2), CPU_1),
        granted(4, RequestId(4), range(2, 3), CPU_1),
    ]


def test_a_request_stays_where_it_lives(state: KvManagerState) -> None:
    state.handle(reserve(1, A, 16), 0.0)
    state.handle(joined(CPU_1, num_pages=1000), 0.0)

    assert say(state, reserve(2, A, 32)) == granted(2, A, range(1, 2))


# Repeats


@pytest.mark.parametrize("command", [reserve(5, A, 32), reserve(5, A, 99), release(5, A)])
def test_a_repeat_gets_the_same_answer(state: KvManagerState, command: Message) -> None:
    first = say(state, command)

    assert say(state, command) == first


def test_a_refusal_is_repeated_though_there_is_room_by_now(state: KvManagerState) -> None:
    state.handle(reserve(1, B, 64), 0.0)
    refusal = say(state, reserve(2, A, 32))
    state.handle(release(3, B), 0.0)

    assert say(state, reserve(2, A, 32)) == refusal
    assert say(state, reserve(4, A, 32)) == granted(4, A, range(2))


def test_an_overtaken_command_is_dropped(state: KvManagerState) -> None:
    state.handle(reserve(1, A, 16), 0.0)
    state.handle(release(2, A), 0.0)

    assert state.handle(reserve(1, A, 16), 0.0) == []
    assert say(state, reserve(3, A, 64)) == granted(3, A, range(4))
    assert state.handle(release(2, A), 0.0) == []


def test_a_release_is_answered_for_a_request_that_is_long_forgotten(state: KvManagerState) -> None:
    state.handle(release(1, A), 0.0)
    for number in range(2, MAX_RELEASED + 3):
        state.handle(release(number, RequestId(number)), 0.0)

    assert say(state, release(1, A)) == PagesReleased(number=1, request_id=A)


# Pools come and go


def test_a_lost_worker_takes_its_tables_along(state: KvManagerState) -> None:
    state.handle(reserve(1, A, 16), 0.0)
    state.handle(joined(CPU_1), 0.0)

    state.handle(lost(), 0.0)

    assert say(state, reserve(2, A, 32)) == granted(2, A, range(2), CPU_1)


def test_a_new_epoch_is_the_loss_of_the_old_pool(state: KvManagerState) -> None:
    state.handle(reserve(1, A, 16), 0.0)

    state.handle(joined(epoch=2, num_pages=8), 0.0)

    assert say(state, reserve(2, A, 16)) == granted(2, A, range(1), epoch=2)


def test_a_worker_that_joins_twice_keeps_its_tables(state: KvManagerState) -> None:
    state.handle(reserve(1, A, 16), 0.0)

    assert state.handle(joined(), 0.0) == []
    assert say(state, reserve(2, A, 32)) == granted(2, A, range(1, 2))


def test_the_loss_of_an_earlier_life_changes_nothing(state: KvManagerState) -> None:
    state.handle(joined(epoch=2), 0.0)

    assert state.handle(lost(epoch=1), 0.0) == []
    assert say(state, reserve(1, A, 16)) == granted(1, A, range(1), epoch=2)


def test_a_late_word_brings_no_lost_pool_back(state: KvManagerState) -> None:
    state.handle(joined(epoch=2), 0.0)
    state.handle(reserve(1, A, 16), 0.0)
    state.handle(lost(epoch=3), 0.0)

    state.handle(joined(epoch=1), 0.0)
    state.handle(joined(epoch=3), 0.0)

    assert say(state, reserve(2, A, 32)) == granted(2, A, range(1, 2), epoch=2)


def test_a_new_router_finds_pools_that_it_has_named(state: KvManagerState) -> None:
    state.handle(reserve(7, A, 64), 0.0)

    state.handle(NEXT_TERM, 0.0)

    assert say(state, reserve(1, A, 16)) == refused(1, A, needed=1, available=0)
    state.handle(joined(), 0.0)
    assert say(state, reserve(2, A, 64)) == granted(2, A, range(4))


def test_nobody_moves_to_a_worker_that_leaves(state: KvManagerState) -> None:
    state.handle(reserve(1, A, 16), 0.0)

    state.handle(WorkerLeaving(worker_id=CPU_0, epoch=Epoch(1)), 0.0)

    assert say(state, reserve(2, B, 16)) == refused(2, B, needed=1, available=3)
    assert say(state, reserve(3, A, 32)) == granted(3, A, range(1, 2))


def test_a_faster_worker_gets_more(state: KvManagerState) -> None:
    state.handle(joined(num_pages=30, epoch=2), 0.0)
    state.handle(joined(CPU_1, num_pages=30), 0.0)
    speeds = tuple(
        WorkerSpeed(worker_id=worker_id, epoch=Epoch(epoch), tokens_per_s=tokens_per_s)
        for worker_id, epoch, tokens_per_s in ((CPU_0, 2, 1000.0), (CPU_1, 1, 2000.0))
    )

    state.handle(SpeedsMeasured(speeds=speeds), 0.0)

    places = [say(state, reserve(n, RequestId(n), 16)) for n in range(1, 13)]
    homes = [place.worker_id for place in places if isinstance(place, PagesReserved)]
    assert (homes.count(CPU_0), homes.count(CPU_1)) == (4, 8)


# Membership


def test_a_manager_that_was_given_up_ends_and_is_started_again(state: KvManagerState) -> None:
    effects = state.handle(lost(WorkerId("kv"), epoch=9), 0.0)

    assert effects == [Stop("the router had given this worker up", exit_code=4)]


def test_it_registers_at_start() -> None:
    [register] = sent(make_state().start(0.0))

    assert isinstance(register, Register)
    assert (register.role, register.model) == ("kv_manager", None)


def test_registering_again_keeps_the_tables(state: KvManagerState) -> None:
    state.handle(reserve(1, A, 16), 0.0)

    state.handle(REGISTERED, 0.1)

    assert say(state, reserve(2, A, 32)) == granted(2, A, range(1, 2))


def test_a_refused_kv_manager_stops() -> None:
    effects = make_state().handle(RegisterRefused(reason="there is one already"), 0.0)

    assert effects == [Stop("refused by the router: there is one already", exit_code=3)]


def test_asked_to_stop_it_says_goodbye_at_once(state: KvManagerState) -> None:
    state.handle(REGISTERED, 0.0)

    effects = state.handle(StopRequested(), 1.0)

    assert sent(effects) == [WorkerLost(worker_id=WorkerId("kv"), epoch=Epoch(9))]
    assert effects[-1] == Stop("asked to stop")


# Size


@pytest.mark.slow
def test_a_page_costs_little_memory() -> None:
    num_pages = 100_000
    tracemalloc.start()
    state = make_state()
    state.handle(joined(num_pages=num_pages), 0.0)
    for number in range(0, num_pages // 2, 4):
        page_hashes = hashes(str(number), "b", "c", "d")
        state.handle(reserve(number, RequestId(number), 64, page_hashes=page_hashes), 0.0)
        state.handle(filled(number + 1, RequestId(number), 0, page_hashes), 0.0)
        state.handle(release(number + 2, RequestId(number)), 0.0)
    for number in range(num_pages // 2, num_pages, 4):
        state.handle(reserve(number, RequestId(number), 64), 0.0)

    size_bytes, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert size_bytes / num_pages < 250
