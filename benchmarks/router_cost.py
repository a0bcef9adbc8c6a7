"""The router's processor time per generated token, among workers that compute nothing.

    python -m benchmarks.router_cost --layer-workers 9 --attention-workers 27 --entries 255

All processes are real and share this machine's cores, so tokens per second say little here, but
the router does for each token what it does in a large cluster. The model is narrow: activations
never pass through the router.
"""

import json
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import psutil
import typer

from benchmarks.emulated import VOCAB_SIZE, attention_options, layer_options, write_model
from common.policy.in_flight import starting_in_flight
from services.admin.bench.workloads import Workload, make_prompts, write_batch
from services.admin.local_cluster import ClusterPlan, LocalCluster
from services.admin.run_batch import BatchFiles, run_batch


def main(  # noqa: PLR0913 - one argument per option
    layer_workers: int = 3,
    attention_workers: int = 3,
    entries: Annotated[int, typer.Option(help="Of each microbatch.")] = 255,
    prompt_tokens: int = 32,
    output_tokens: int = 128,
    in_flight: Annotated[
        int | None, typer.Option(help="Microbatches at once; by default three per range.")
    ] = None,
    stage_ms: Annotated[float, typer.Option(help="What every stage of tier 1 takes.")] = 0.0,
) -> None:
    """Run one job whose microbatches are full, and print what it cost the router."""
    in_flight = in_flight or starting_in_flight(layer_workers, shares_cores=False)
    num_requests = entries * in_flight
    with TemporaryDirectory() as name:
        folder = Path(name)
        plan = ClusterPlan(
            layer_workers=layer_workers,
            attention_workers=attention_workers,
            router={
                "model": write_model(folder / "model", layer_workers),
                "compute": "emulated",
                "max-num-seqs": num_requests,
                "in-flight": in_flight,
                "microbatch-entries": entries,
                "max-num-batched-tokens": max(2048, entries),
                # On a few cores, one of dozens of processes may not get its turn for seconds.
                "lease-s": 60,
                "kv-patience-s": 60,
            },
            layer=layer_options(folder, stage_ms / 1000),
            attention=attention_options(folder),
            threads=1,
        )
        workload = Workload(
            model="emulated",
            num_requests=num_requests,
            prompt_tokens=prompt_tokens,
            output_tokens=output_tokens,
        )
        prompts = make_prompts(workload, VOCAB_SIZE, seed=0)
        batch = write_batch(folder / "in.jsonl", workload, prompts)
        files = BatchFiles(input=batch, output=folder / "out.jsonl", report=None)
        print(json.dumps(_measure(plan, files)))


def _measure(plan: ClusterPlan, files: BatchFiles) -> dict[str, float]:
    with LocalCluster(plan) as cluster:
        cluster.wait_until_ready().close()
        router = psutil.Process(cluster.processes()["router"])
        before, started_s = router.cpu_times(), time.monotonic()
        report = run_batch(files, cluster.url)
        after, wall_s = router.cpu_times(), time.monotonic() - started_s
    user_s, system_s = after.user - before.user, after.system - before.system
    return {
        "generated_tokens": report.generated_tokens,
        "failed": report.failed,
        "wall_s": round(wall_s, 1),
        "output_tokens_per_s": round(report.output_tokens_per_s),
        "router_user_s": round(user_s, 2),
        "router_system_s": round(system_s, 2),
        "router_us_per_token": round((user_s + system_s) / report.generated_tokens * 1e6, 1),
    }


if __name__ == "__main__":
    typer.run(main)
