"""When the router has enough workers to begin, and to go on."""

import pytest

from common.ids import WorkerId
from common.messages import ForwardMicrobatch, ReservePages, WorkerJoined, WorkerLost, WorkerReady
from common.runtime.effects import Send
from tests.support.router import RouterBench, hop, line, register, sent


def lose(bench: RouterBench, name: str) -> None:
    gone = hop(name)
    bench.tell(WorkerLost(worker_id=gone.worker_id, epoch=gone.epoch))


def test_a_kv_manager_is_asked_for_pages_only_once_it_knows_the_pools() -> None:
    bench = RouterBench()
    bench.join("layer-0", "layer_worker")
    bench.join("attention-0", "attention_worker")
    bench.submit(line(0))

    registered = bench.tell(register("kv", "kv_manager"))
    manager = hop("kv")
    ready = bench.tell(
        WorkerReady(worker_id=manager.worker_id, epoch=manager.epoch, num_pages=0, layers=None)
    )

    assert not sent(registered, ReservePages)
    told = [type(each.message) for each in ready if isinstance(each, Send)]
    assert told == [WorkerJoined, ReservePages]


def test_a_second_kv_manager_is_refused_before_the_first_is_ready() -> None:
    bench = RouterBench()
    bench.tell(register("kv", "kv_manager"))

    refusal = bench.state.members.refusal(register("other", "kv_manager"))

    assert refusal == "the cluster has a KV manager already, kv: stop one of them"


def test_work_goes_on_with_fewer_attention_workers_than_it_began_with() -> None:
    bench = RouterBench(min_attention_workers=2)
    bench.join_all(attention_workers=2)
    lose(bench, "attention-0")

    effects = bench.grant(bench.submit(line(0)), WorkerId("attention-1"))

    assert sent(effects, ForwardMicrobatch)


@pytest.mark.parametrize(
    ("layer_path", "attention_path", "shares"),
    [
        ("cpu-native", "cpu-avx2", True),
        ("cuda-torch", "cpu-avx2", False),
        ("cuda-torch", "cuda-gather", False),
    ],
)
def test_tiers_on_one_machine_share_its_cores_unless_one_of_them_is_on_gpus(
    layer_path: str, attention_path: str, shares: bool
) -> None:
    bench = RouterBench()
    bench.join("layer-0", "layer_worker", kernel_path=layer_path)
    bench.join("attention-0", "attention_worker", kernel_path=attention_path)

    assert bench.state.members.shares_cores() is shares
