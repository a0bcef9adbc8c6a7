"""Links lose everything in one direction, or are slow: both ends are safe, and it heals by itself."""

from collections import Counter
from collections.abc import Iterator, Sequence

import pytest

from common.ids import Epoch, Term, WorkerId
from common.messages import Message
from common.runtime.fence import ROUTER_ID
from common.wire.codec import Header, encode
from common.wire.limits import WireLimits
from services.admin.inline import KV_MANAGER, attention_worker, layer_worker
from services.admin.inline_bus import MESSAGE_S
from services.router.config import RouterSettings
from tests.support.faults import check, make, quiet_tokens, some_lines
from tests.support.inline import one_thread, tokens

LAYERS = (layer_worker(0), layer_worker(1))
ATTENTION = (attention_worker(0), attention_worker(1))
WORKERS = (KV_MANAGER, *LAYERS, *ATTENTION)
LINKS = [
    *((ROUTER_ID, worker) for worker in WORKERS),
    *((worker, ROUTER_ID) for worker in WORKERS),
    (LAYERS[0], LAYERS[1]),
    *((layers, attention) for layers in LAYERS for attention in ATTENTION),
    *((attention, layers) for layers in LAYERS for attention in ATTENTION),
]
CUT_S = (0.02, 40.0)

SLOW_S = 0.03


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    with one_thread():
        yield


@pytest.mark.slow
@pytest.mark.parametrize("link", LINKS, ids=" to ".join)
def test_a_link_may_be_cut_one_way_for_a_while(link: tuple[WorkerId, WorkerId]) -> None:
    cluster = make()

    def fate(sender: WorkerId, receiver: WorkerId, message: Message) -> Sequence[float]:
        check(cluster)
        is_cut = (sender, receiver) == link and CUT_S[0] < cluster.bus.clock.now() < CUT_S[1]
        return () if is_cut else (MESSAGE_S,)

    cluster.bus.fate = fate

    outcomes = cluster.generate(some_lines())

    assert tokens(outcomes) == quiet_tokens()


@pytest.mark.slow
@pytest.mark.parametrize("slow", [*LAYERS, *ATTENTION])
def test_no_link_carries_more_than_the_flights_times_the_largest_message(slow: WorkerId) -> None:
    cluster = make()
    under_way: Counter[tuple[WorkerId, WorkerId]] = Counter()
    most: Counter[tuple[WorkerId, WorkerId]] = Counter()
    largest = 0

    def fate(sender: WorkerId, receiver: WorkerId, message: Message) -> Sequence[float]:
        nonlocal largest
        if not message.TAG.startswith("step."):
            return (MESSAGE_S,)
        link, size = (sender, receiver), size_bytes(message)
        largest = max(largest, size)
        under_way[link] += size
        most[link] = max(most[link], under_way[link])
        delay_s = SLOW_S if receiver == slow else MESSAGE_S
        arrived_s = cluster.bus.clock.now() + delay_s
        cluster.bus.clock.call_at(arrived_s, lambda: under_way.subtract({link: size}))
        return (delay_s,)

    cluster.bus.fate = fate

    outcomes = cluster.generate(some_lines())

    assert tokens(outcomes) == quiet_tokens()
    assert max(most.values()) <= cluster.router.scheduler.throttle.in_flight * largest


def size_bytes(message: Message) -> int:
    header = Header(
        term=Term(1), sender=WorkerId("w"), sender_epoch=Epoch(1), receiver_epoch=Epoch(1)
    )
    return sum(memoryview(frame).nbytes for frame in encode(message, header))


def test_a_link_holds_twice_what_the_settings_let_in_flight() -> None:
    bounds = RouterSettings.model_fields["in_flight"].metadata
    most = next(bound.le for bound in bounds if hasattr(bound, "le"))

    assert WireLimits().max_queued > 2 * most
