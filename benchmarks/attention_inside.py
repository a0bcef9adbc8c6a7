"""How fast attention reads keys and values inside a running system, against plain reads of memory.

    python -m benchmarks.attention_inside --context 8192 --requests 16

One microbatch is in flight. What counts is the time in which the attention worker's engine was busy with
a microbatch that only decodes, by the times that rode home with it. Plain reads are measured right after,
in another process's memory, beside the kernel alone on the same shape.
"""

import json
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from services.admin.bench.attention import bench_attention
from services.admin.bench.attention_work import AttentionWork
from services.admin.bench.sites import ClusterSite
from services.admin.bench.workloads import SHAPES, Workload, find_model, make_prompts, write_batch
from services.admin.client import RouterClient
from services.admin.local_cluster import LocalCluster
from services.admin.options import make_plan
from services.attention_worker.config import AttentionWorkerSettings
from services.attention_worker.machine import find_machine

_SHAPE = "llama-wide-heads"
_PAGE_SIZE = 64


def main(
    context: Annotated[int, typer.Option(help="Tokens of each request, at its end.")] = 8192,
    requests: int = 16,
    output_tokens: int = 64,
    threads: int = 2,
    runs: Annotated[int, typer.Option(help="Of the plain reads; their median counts.")] = 5,
) -> None:
    """Run a job, then read memory."""
    workload = Workload(
        model=f"random:{_SHAPE}",
        num_requests=requests,
        prompt_tokens=context - output_tokens,
        output_tokens=output_tokens,
    )
    work = _work(workload)
    inside_s = _measure(workload, threads)
    machine = find_machine(AttentionWorkerSettings(threads=threads))
    alone = bench_attention(work, machine, num_runs=runs, compare=False)
    layer_s = median(inside_s) / SHAPES[_SHAPE].num_layers
    inside = work.kv_bytes / layer_s / 1e9
    figures = {
        "passes": len(inside_s),
        "layer_ms": round(layer_s * 1e3, 3),
        "spread": round((max(inside_s) - min(inside_s)) / median(inside_s), 3),
        "kv_gb_per_s": round(inside, 1),
        "read_gb_per_s": round(alone.read_gb_per_s, 1),
        "fraction": round(inside / alone.read_gb_per_s, 3),
        "kernel_alone_gb_per_s": round(alone.kv_gb_per_s, 1),
    }
    print(json.dumps(figures))


def _work(workload: Workload) -> AttentionWork:
    """Describe one layer of the pass in the middle of decode."""
    shape = SHAPES[_SHAPE]
    return AttentionWork(
        phase="decode",
        batch=workload.num_requests,
        context=workload.prompt_tokens + workload.output_tokens // 2,
        chunk=1,
        q_heads=shape.num_heads,
        kv_heads=shape.num_kv_heads,
        head_dim=shape.hidden_size // shape.num_heads,
        kv_dtype="bf16",
        page_size=_PAGE_SIZE,
    )


def _measure(workload: Workload, threads: int) -> list[float]:
    """Run the job; gives the attention engine's seconds of each pass that only decoded."""
    plan = make_plan(
        {
            "model": find_model(workload.model),
            "in_flight": 1,
            "max_num_seqs": workload.num_requests,
            "max_model_len": workload.prompt_tokens + workload.output_tokens,
            "block_size": _PAGE_SIZE,
            "threads": threads,
        }
    )
    with TemporaryDirectory() as name, LocalCluster(plan) as cluster:
        site = ClusterSite(cluster, plan)
        prompts = make_prompts(workload, SHAPES[_SHAPE].vocab_size, seed=0)
        site.run(write_batch(Path(name) / "in.jsonl", workload, prompts))
        client = RouterClient(cluster.url)
        steps = client.steps()
        client.close()
    # Chunks of prompts are larger.
    return [step["attention_s"] for step in steps if step["num_rows"] == workload.num_requests]


if __name__ == "__main__":
    typer.run(main)
