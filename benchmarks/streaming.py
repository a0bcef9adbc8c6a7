"""Many clients that stream at once: is one lost, what does the router hold, and what does it add.

    python -m benchmarks.streaming --clients 1000

Workers are emulated: each stage of tier 1 takes `--stage-ms` and computes nothing. The clients live
in this process and share the machine's cores with the router and the workers. What the router adds is
the time between two tokens at a client, less the time that their microbatch was under way.
"""

import asyncio
import json
import statistics
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import psutil
import typer
import uvloop

from benchmarks.callers import Stream, ask
from benchmarks.emulated import attention_options, layer_options, write_model, write_tokenizer
from services.admin.client import RouterClient
from services.admin.local_cluster import ClusterPlan, LocalCluster

_POLL_S = 0.25
_RANGES = 2


def main(
    clients: int = 1000,
    output_tokens: int = 64,
    stage_ms: Annotated[float, typer.Option(help="What every stage of tier 1 takes.")] = 20.0,
    in_flight: Annotated[int | None, typer.Option(help="Microbatches under way at once.")] = None,
) -> None:
    """Start a cluster, let all clients ask at once, and print what they saw."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        model = write_model(folder / "model", 2 * _RANGES)
        write_tokenizer(model)
        plan = ClusterPlan(
            layer_workers=_RANGES,
            attention_workers=2,
            router={
                "model": model,
                "compute": "emulated",
                "max-num-seqs": clients,
                "in-flight": in_flight,
            },
            layer=layer_options(folder, stage_ms / 1000),
            attention=attention_options(folder),
            threads=1,
        )
        with LocalCluster(plan) as cluster:
            client = cluster.wait_until_ready()
            router = psutil.Process(cluster.processes()["router"])
            print(json.dumps(uvloop.run(_measure(client, router, clients, output_tokens))))
            client.close()


async def _measure(
    client: RouterClient, router: psutil.Process, clients: int, output_tokens: int
) -> dict[str, float]:
    body = {"prompt": [5, 6, 7], "max_tokens": output_tokens, "ignore_eos": True, "stream": True}
    passes: list[float] = []
    cpu_s, started_s = _cpu_s(router), time.monotonic()
    async with asyncio.TaskGroup() as tasks:
        asking = [tasks.create_task(ask(client.url, body)) for _ in range(clients)]
        watching = tasks.create_task(_watch(client, passes))
        await asyncio.wait(asking)
        watching.cancel()
    wall_s = time.monotonic() - started_s
    streams = [task.result() for task in asking]
    whole = [each for each in streams if each.ended and len(each.told_s) == output_tokens]
    between = sorted(gap for each in whole for gap in _gaps(each))
    firsts = sorted(each.told_s[0] - each.asked_s for each in whole)
    num_tokens = sum(len(each.told_s) for each in streams)
    pass_ms = statistics.median(passes) * 1000
    return {
        "clients": clients,
        "lost": clients - len(whole),
        "tokens_per_s": round(num_tokens / wall_s),
        "first_token_p50_ms": _ms(firsts, 0.5),
        "inter_token_p50_ms": _ms(between, 0.5),
        "inter_token_p99_ms": _ms(between, 0.99),
        "pass_p50_ms": round(pass_ms, 2),
        "added_p50_ms": round(_ms(between, 0.5) - pass_ms, 2),
        "router_peak_mib": round(_peak_bytes(router.pid) / 2**20),
        "router_cpu_us_per_token": round((_cpu_s(router) - cpu_s) / num_tokens * 1e6, 1),
    }


async def _watch(client: RouterClient, passes: list[float]) -> None:
    """Collect how long microbatches of full size were under way, as the router saw it."""
    seen: set[int] = set()
    while True:
        steps = await asyncio.to_thread(client.steps)
        for step in steps:
            if step["microbatch_id"] not in seen:
                seen.add(step["microbatch_id"])
                passes.append(step["home_s"] - step["sent_s"])
        await asyncio.sleep(_POLL_S)


def _gaps(stream: Stream) -> Iterator[float]:
    yield from (later - earlier for earlier, later in pairwise(stream.told_s))


def _ms(values: list[float], share: float) -> float:
    return round(values[min(len(values) - 1, int(share * len(values)))] * 1000, 2)


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _peak_bytes(pid: int) -> int:
    """Give the most resident memory that a process had."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("Linux tells it")


if __name__ == "__main__":
    typer.run(main)
