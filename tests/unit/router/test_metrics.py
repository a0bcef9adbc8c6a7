"""What the router tells Prometheus."""

import pytest

from common.ids import Epoch, WorkerId
from common.messages import ForwardMicrobatch, Heartbeat, LinkBytes, PoolCount, PoolsCounted
from common.runtime.counters import Counters
from common.runtime.metrics import Metrics
from services.router.calls import Call
from services.router.lines import LineFailed
from services.router.metrics import ROUTER_METRICS, RouterMetrics, router_readings
from tests.support.jobs import finished, parsed_line
from tests.support.router import RouterBench, hop, line, sent


def read(bench: RouterBench) -> dict[str, float]:
    readings = router_readings(bench.state, calls=[], now=bench.now)
    return {"/".join([reading.metric.name, *reading.labels]): reading.value for reading in readings}


@pytest.fixture
def bench() -> RouterBench:
    bench = RouterBench()
    bench.join_all()
    return bench


def test_requests_are_running_or_waiting(bench: RouterBench) -> None:
    bench.run(line(0))
    bench.submit(line(1))

    told = read(bench)

    assert (told["num_requests_running"], told["num_requests_waiting"]) == (1, 1)
    assert (told["in_flight_microbatches"], told["in_flight_limit"]) == (1, 1)


def test_pages_are_told_as_the_kv_manager_counts_them(bench: RouterBench) -> None:
    count = PoolCount(
        worker_id=WorkerId("attention-0"), epoch=Epoch(1), free=2, held=3, shared=1, cached=2
    )
    bench.tell(PoolsCounted(pools=(count,)))

    told = read(bench)

    assert told["kv_cache_usage_perc"] == 0.5
    assert told["pool_pages/attention-0/cached"] == 2


def test_tokens_and_microbatches_are_counted_as_they_come_home(bench: RouterBench) -> None:
    home = bench.come_home(bench.run(line(0)))
    bench.come_home(sent(home, ForwardMicrobatch)[0])

    told = read(bench)

    assert (told["generation_tokens_total"], told["prompt_tokens_total"]) == (2, 3)
    assert (told["microbatches_total/home"], told["microbatches_total/failed"]) == (2, 0)


def test_workers_are_told_by_their_heartbeats(bench: RouterBench) -> None:
    where = hop("layer-0")
    link = LinkBytes(peer=hop("attention-0").worker_id, sent_bytes=7)
    bench.tell(
        Heartbeat(
            worker_id=where.worker_id, epoch=where.epoch, progress=1, busy_s=2.5, busy=False, tokens_per_s=0.0,
            links=(link,), waiting_for=(),
        )
    )  # fmt: skip
    bench.now = 2.0

    told = read(bench)

    assert told["tier_busy_seconds_total/1/layer-0"] == 2.5
    assert told["tier_link_bytes_total/layer-0/attention-0"] == 7
    assert told["worker_lease_age_seconds/layer-0"] == 2.0
    assert told["workers/layer_worker"] == 1


def test_endings_and_latencies_are_counted_once_each() -> None:
    metrics = RouterMetrics(Metrics(Counters()))
    call = Call(parsed_line(n=2), asked_at=0.0)
    metrics.line_ended(finished(parsed_line(n=2), 65))
    metrics.line_ended(LineFailed(line=parsed_line(), code="server_error", message="broke"))
    for choice in (0, 1, 1):
        metrics.token_told(call, choice)
    metrics.call_answered(call)

    told = metrics.text().decode().splitlines()

    assert 'glinthawk_request_success_total{finished_reason="length"} 2.0' in told
    assert 'glinthawk_lines_failed_total{code="server_error"} 1.0' in told
    assert "glinthawk_time_to_first_token_seconds_count 2.0" in told
    assert "glinthawk_inter_token_latency_seconds_count 1.0" in told
    assert "glinthawk_e2e_request_latency_seconds_count 1.0" in told


def test_every_declared_metric_has_a_name_of_its_own() -> None:
    names = [metric.name for metric in ROUTER_METRICS]

    assert len(set(names)) == len(names)
    assert all(
        metric.name.endswith("_total") == (metric.kind == "counter") for metric in ROUTER_METRICS
    )
