"""How much is computed again after a death: no more than what was only there."""

from collections.abc import Iterator, Sequence

import pytest

from common.ids import WorkerId
from common.messages import (
    AttentionRequest,
    Message,
    PagesReserved,
    ReleasePages,
    ReservePages,
    SampledTokens,
)
from common.runtime.fence import ROUTER_ID
from services.admin.inline import KV_MANAGER, InlineCluster, attention_worker, layer_worker
from services.router.page_rules import PageTotals
from tests.support.faults import (
    Letter,
    Moment,
    Script,
    dies,
    is_stopped,
    make,
    quiet_tokens,
    some_lines,
)
from tests.support.inline import one_thread, tokens

SMALL_PAGES = {"block_size": 16, "kv_memory": 4 << 20}
SOME = attention_worker(0)


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    with one_thread():
        yield


@pytest.mark.slow
@pytest.mark.parametrize("back_after_s", [0.0, 5.0])
@pytest.mark.parametrize(
    "moment",
    [
        (AttentionRequest, 30),
        (AttentionRequest, 90),
        (SampledTokens, 30),
        (PagesReserved, 2),
        (ReservePages, 9),
        (ReleasePages, 3),
    ],
    ids=lambda moment: moment[0].TAG,
)
def test_a_kv_manager_that_dies_costs_nothing(
    moment: tuple[type[Message], int], back_after_s: float
) -> None:
    cluster = make()
    cluster.bus.fate = Script(cluster, {moment: dies(KV_MANAGER, back_after_s=back_after_s)})

    outcomes = cluster.generate(some_lines())

    assert tokens(outcomes) == quiet_tokens()
    assert causes(cluster) <= {"preempted"}  # pools are small
    assert cluster.router.scheduler.totals.failed_microbatches == 0


@pytest.mark.slow
def test_a_kv_manager_may_die_again_and_again_at_no_cost() -> None:
    cluster = make(**SMALL_PAGES)
    moments: list[Moment] = [(SampledTokens, number) for number in range(4, 40, 3)]
    cluster.bus.fate = Script(cluster, dict.fromkeys(moments, dies(KV_MANAGER)))

    outcomes = cluster.generate(some_lines())

    assert tokens(outcomes) == quiet_tokens(**SMALL_PAGES)
    assert causes(cluster) == set()
    assert cluster.router.scheduler.totals.failed_microbatches == 0


@pytest.mark.slow
def test_a_layer_worker_that_dies_costs_what_was_under_way() -> None:
    cluster = make(**SMALL_PAGES)
    cluster.bus.fate = Script(cluster, {(AttentionRequest, 60): dies(layer_worker(0))})

    outcomes = cluster.generate(some_lines())

    assert tokens(outcomes) == quiet_tokens(**SMALL_PAGES)
    assert causes(cluster) == set()
    assert cluster.router.scheduler.totals.failed_microbatches <= 3  # in flight


@pytest.mark.slow
def test_an_attention_worker_that_dies_costs_its_own_requests() -> None:
    cluster = make(**SMALL_PAGES)
    there: list[int] = []

    def act(cluster: InlineCluster, letter: Letter) -> Sequence[float]:
        living = cluster.router.scheduler.requests.living_on(cluster.hops[SOME])
        there.append(sum(request.num_computed for request in living))
        return dies(SOME)(cluster, letter)

    cluster.bus.fate = Script(cluster, {(AttentionRequest, 60): act})

    outcomes = cluster.generate(some_lines())

    assert tokens(outcomes) == quiet_tokens(**SMALL_PAGES)
    assert causes(cluster) == {"worker_lost"}
    # A microbatch that was on its way home may have added some.
    assert 0 < totals(cluster).recomputed_tokens["worker_lost"] <= there[0] + 32


@pytest.mark.slow
@pytest.mark.parametrize("worker_id", [SOME, layer_worker(0)])
def test_a_worker_that_is_asked_to_end_costs_nothing(worker_id: WorkerId) -> None:
    cluster = make(**SMALL_PAGES)
    cluster.bus.fate = Script(cluster, {(AttentionRequest, 60): is_stopped(worker_id)})

    outcomes = cluster.generate(some_lines())

    assert tokens(outcomes) == quiet_tokens(**SMALL_PAGES)
    assert causes(cluster) == set()
    assert cluster.router.scheduler.totals.failed_microbatches == 0


@pytest.mark.slow
def test_a_router_that_dies_costs_what_was_not_sealed() -> None:
    cluster = make(**SMALL_PAGES)
    sealed: list[int] = []

    def act(cluster: InlineCluster, letter: Letter) -> Sequence[float]:
        running = cluster.router.scheduler.requests.all()
        sealed.append(16 * sum(request.num_sealed for request in running))
        return dies(ROUTER_ID)(cluster, letter)

    cluster.bus.fate = Script(cluster, {(SampledTokens, 30): act})

    outcomes = cluster.generate(some_lines())

    assert tokens(outcomes) == quiet_tokens(**SMALL_PAGES)
    assert totals(cluster).found_tokens >= sealed[0] > 0


def totals(cluster: InlineCluster) -> PageTotals:
    return cluster.router.scheduler.tenancy.totals


def causes(cluster: InlineCluster) -> set[str]:
    """Say why tokens were computed again."""
    return {cause for cause, number in totals(cluster).recomputed_tokens.items() if number}
