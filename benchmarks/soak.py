"""Whether memory stays flat: one job after the other on emulated workers, for as long as is asked.

    python -m benchmarks.soak --minutes 20

Prints, per process, resident memory and its slope: a straight line through the samples of the
second half, when all caches are full.
"""

import json
import time
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import numpy as np
import psutil
import typer

from benchmarks.emulated import VOCAB_SIZE, attention_options, layer_options, write_model
from services.admin.bench.workloads import Workload, make_prompts, write_batch
from services.admin.local_cluster import ClusterPlan, LocalCluster
from services.admin.run_batch import BatchFiles, run_batch

_SETTLED = 0.5
"""The share of the time that does not count: until then pools, and what is known of requests that ended,
fill up."""
_KV_MEMORY = "64MiB"
"""Of each attention worker: little, so that the pages of ended requests, and with them the index, have
filled it before anything counts."""
Samples = dict[str, list[tuple[float, int]]]
"""Seconds since the start and resident bytes, by process."""


def main(
    minutes: float = 20.0,
    layer_workers: int = 2,
    attention_workers: int = 2,
    requests: int = 128,
    stage_ms: Annotated[float, typer.Option(help="What every stage of tier 1 takes.")] = 2.0,
) -> None:
    """Run jobs until the time is over, and print what memory did."""
    workload = Workload(model="emulated", num_requests=requests, prompt_tokens=64, output_tokens=64)
    samples: Samples = {}
    num_tokens = num_failed = num_jobs = 0
    with TemporaryDirectory() as name:
        folder = Path(name)
        plan = ClusterPlan(
            layer_workers=layer_workers,
            attention_workers=attention_workers,
            router={
                "model": write_model(folder / "model", layer_workers),
                "compute": "emulated",
                "max-num-seqs": requests,
            },
            layer=layer_options(folder, stage_ms / 1000),
            attention={**attention_options(folder), "kv-memory": _KV_MEMORY},
            threads=1,
        )
        with LocalCluster(plan) as cluster:
            cluster.wait_until_ready().close()
            started_s = time.monotonic()
            for seed in count():
                prompts = make_prompts(workload, VOCAB_SIZE, seed)
                batch = write_batch(folder / "in.jsonl", workload, prompts)
                output = folder / f"out-{seed}.jsonl"
                report = run_batch(BatchFiles(input=batch, output=output, report=None), cluster)
                output.unlink()
                num_tokens += report.generated_tokens
                num_failed += report.failed
                num_jobs += 1
                seconds = time.monotonic() - started_s
                _sample(samples, cluster.processes(), seconds)
                if seconds > 60 * minutes:
                    break
    print(json.dumps({"jobs": num_jobs, "generated_tokens": num_tokens, "failed": num_failed}))
    for process, points in samples.items():
        print(json.dumps({"process": process, **_summary(points)}))


def _sample(samples: Samples, processes: dict[str, int], seconds: float) -> None:
    for process, pid in processes.items():
        resident = psutil.Process(pid).memory_info().rss
        samples.setdefault(process, []).append((seconds, resident))


def _summary(points: list[tuple[float, int]]) -> dict[str, float]:
    last_s = points[-1][0]
    counted = np.array([point for point in points if point[0] >= _SETTLED * last_s])
    slope = np.polyfit(counted[:, 0], counted[:, 1], 1)[0] if len(counted) > 1 else np.nan
    return {
        "samples": len(counted),
        "first_mb": round(counted[0, 1] / 1e6, 2),
        "last_mb": round(counted[-1, 1] / 1e6, 2),
        "slope_mb_per_hour": round(float(slope) * 3600 / 1e6, 2),
    }


if __name__ == "__main__":
    typer.run(main)
