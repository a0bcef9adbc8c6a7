"""Tokens per second with a network between the tiers: the number in flight fixed, or set by itself.

    python -m benchmarks.latency real --delay-ms 0 --delay-ms 10 --delay-ms 50
    python -m benchmarks.latency emulated --delay-ms 0 --delay-ms 50 --fixed 27

Every message of a process waits that long before it is sent. `real` measures whole jobs of a model of
8B width with 4 layers; all processes wait. `emulated` measures a while of a job that is long enough, on
layer workers as fast as a T4; the workers of both tiers wait. What it takes until the number has set
itself is not in the figures.
"""

import json
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer

from benchmarks.emulated import write_model
from common.policy.profile import read_profile
from services.admin.bench.sites import ClusterSite
from services.admin.bench.workloads import Workload, find_model, make_prompts, write_batch
from services.admin.client import RouterClient
from services.admin.local_cluster import ClusterPlan, LocalCluster
from services.admin.options import make_plan

app = typer.Typer(help=__doc__)
Delays = Annotated[list[float], typer.Option(help="Milliseconds, one way; may be repeated.")]
Fixed = Annotated[int | None, typer.Option(help="In flight; else set by itself.")]

_MODEL = "random:llama-8b-4-layers"
_PROFILES = Path("examples/profiles")
_WARM_UP_TOKENS = 16
_START_S, _PASSES_TO_SETTLE = 20.0, 4
_FEW_ENTRIES = 16
"""Of an emulated microbatch: a T4 takes no longer for a hundred, and the router less."""


@app.command()
def real(
    delay_ms: Delays,
    fixed: Fixed = None,
    requests: int = 256,
    prompt_tokens: int = 64,
    output_tokens: int = 64,
    microbatch_entries: int = 64,
) -> None:
    """Run the same job at each delay, on a cluster of its own."""
    workload = Workload(
        model=_MODEL,
        num_requests=requests,
        prompt_tokens=prompt_tokens,
        output_tokens=output_tokens,
    )
    for delay in delay_ms:
        plan = make_plan(
            {
                "model": find_model(_MODEL),
                "max_num_seqs": requests,
                "microbatch_entries": microbatch_entries,
                "max_model_len": prompt_tokens + output_tokens,
                "link_delay_ms": delay,
                "in_flight": fixed,
            }
        )
        _print(_run_job(plan, workload), delay_ms=delay, fixed=fixed)


@app.command()
def emulated(  # noqa: PLR0913 - one argument per option
    delay_ms: Delays,
    back_ms: Annotated[
        float | None, typer.Option(help="From tier 2 back, if it is another delay.")
    ] = None,
    fixed: Fixed = None,
    ranges: int = 9,
    layers: Annotated[int, typer.Option(help="Of a Llama-2-70B. More make a pass longer.")] = 18,
    requests: int = 8192,
    measure_s: float = 20.0,
) -> None:
    """Measure a while of one long job at each delay, on a cluster of its own."""
    profile = _PROFILES / "t4-llama-2-70b.json"
    shape = read_profile(profile).model
    assert shape, "a profile of layers has the shape of its model"
    with TemporaryDirectory() as name:
        folder = Path(name)
        model = write_model(folder / "model", layers, shape)
        workload = Workload(
            model="emulated", num_requests=requests, prompt_tokens=4, output_tokens=2000
        )
        prompts = make_prompts(workload, shape.vocab_size, seed=0)
        batch = write_batch(folder / "in.jsonl", workload, prompts)
        for out in delay_ms:
            back = out if back_ms is None else back_ms
            plan = ClusterPlan(
                layer_workers=ranges,
                attention_workers=ranges,
                router={
                    "model": model,
                    "compute": "emulated",
                    "max-num-seqs": requests,
                    "microbatch-entries": _FEW_ENTRIES,
                    "in-flight": fixed,
                    "max-model-len": 2048,
                    # On a few cores, one of so many processes may not get its turn for seconds.
                    "lease-s": 60,
                    "kv-patience-s": 60,
                },
                layer={"compute": "emulated", "profile": profile, "link-delay-ms": out},
                attention={
                    "compute": "emulated",
                    "profile": _PROFILES / "cpu.json",
                    "kv-memory": "4TiB",
                    "link-delay-ms": back,
                },
                threads=1,
            )
            settle_s = _START_S + _PASSES_TO_SETTLE * layers * (out + back) / 1000
            figures = _watch_job(plan, batch, settle_s, measure_s)
            _print(figures, delay_ms=out, back_ms=back, fixed=fixed)


def _run_job(plan: ClusterPlan, workload: Workload) -> dict[str, Any]:
    """Warm up, then run the whole job."""
    with TemporaryDirectory() as name, LocalCluster(plan) as cluster:
        site = ClusterSite(cluster, plan)
        first = replace(workload, num_requests=64, output_tokens=_WARM_UP_TOKENS)
        prompts = make_prompts(first, 32000, seed=1)
        site.run(write_batch(Path(name) / "first.jsonl", first, prompts))
        prompts = make_prompts(workload, 32000, seed=0)
        report = site.run(write_batch(Path(name) / "job.jsonl", workload, prompts))
        return {
            "output_tokens_per_s": round(report.output_tokens_per_s, 1),
            "wall_s": round(report.wall_s, 1),
            "failed": report.failed,
            "in_flight": site.in_flight(),
        }


def _watch_job(plan: ClusterPlan, batch: Path, settle_s: float, measure_s: float) -> dict[str, Any]:
    """Let a job run, and count its tokens for a while."""
    with LocalCluster(plan) as cluster:
        client = cluster.wait_until_ready()
        client.create_job(client.upload(batch))
        time.sleep(settle_s)
        cluster.check()
        started_s, before = time.monotonic(), client.generated_tokens()
        time.sleep(measure_s)
        cluster.check()  # without one of its processes it would only seem slow
        tokens, seconds = client.generated_tokens() - before, time.monotonic() - started_s
        figures = {"output_tokens_per_s": round(tokens / seconds, 1), **_in_flight(client)}
        client.close()
        return figures


def _in_flight(client: RouterClient) -> dict[str, Any]:
    status = client.status()
    return {"in_flight": status["in_flight"]["limit"], "requests": status["requests"]}


def _print(figures: Mapping[str, Any], **about: Any) -> None:
    print(json.dumps({**about, **figures}), flush=True)


if __name__ == "__main__":
    app()
