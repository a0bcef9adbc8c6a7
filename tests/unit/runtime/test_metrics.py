"""What a process tells Prometheus: read at the moment of the scrape, from what is counted anyway."""

import anyio
import httpx
import pytest
from prometheus_client import generate_latest

from common.config import ServiceSettings
from common.errors import SettingsError
from common.ids import WorkerId
from common.runtime.counters import Counters
from common.runtime.metrics import Metric, Metrics

QUEUE = Metric(name="queue", kind="gauge", about="Who waits.", labels=("where",))


def scrape(metrics: Metrics) -> list[str]:
    return generate_latest(metrics.registry).decode().splitlines()


def test_a_scrape_sees_what_was_counted_up_to_then() -> None:
    counters = Counters()
    metrics = Metrics(counters)
    counters.visits = 3
    counters.sent_bytes[WorkerId("attention-0")] += 10
    counters.rejected["malformed"] += 1

    told = scrape(metrics)

    assert "glinthawk_engine_visits_total 3.0" in told
    assert 'glinthawk_link_bytes_total{peer="attention-0"} 10.0' in told
    assert 'glinthawk_frames_rejected_total{kind="malformed"} 1.0' in told


def test_a_source_that_comes_later_is_asked_too() -> None:
    metrics = Metrics(Counters())
    metrics.add(lambda: [QUEUE(2, "door"), QUEUE(1, "stairs")])

    told = scrape(metrics)

    assert "# HELP glinthawk_queue Who waits." in told
    assert [line for line in told if line.startswith("glinthawk_queue{")] == [
        'glinthawk_queue{where="door"} 2.0',
        'glinthawk_queue{where="stairs"} 1.0',
    ]


def test_without_a_port_nothing_is_served() -> None:
    assert Metrics(Counters()).parts(ServiceSettings()) == ()


async def test_a_port_in_use_is_told_in_one_line() -> None:
    async with await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=0) as taken:
        port = taken.extra(anyio.abc.SocketAttribute.local_port)
        (serve,) = Metrics(Counters()).parts(ServiceSettings(metrics_port=port))

        with pytest.raises(SettingsError, match=f"metrics port 127.0.0.1:{port} cannot be had"):
            await serve(None)


@pytest.mark.slow
async def test_the_port_is_served_until_the_service_ends() -> None:
    async with await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=0) as taken:
        port = taken.extra(anyio.abc.SocketAttribute.local_port)
    (serve,) = Metrics(Counters()).parts(ServiceSettings(metrics_port=port))
    async with anyio.create_task_group() as tasks, httpx.AsyncClient() as client:
        tasks.start_soon(serve, None)
        await anyio.wait_all_tasks_blocked()

        answer = await client.get(f"http://127.0.0.1:{port}/metrics")

        tasks.cancel_scope.cancel()
    assert "glinthawk_engine_visits_total 0.0" in answer.text
    with pytest.raises(OSError, match="connection"):
        await anyio.connect_tcp("127.0.0.1", port)
