"""Output tokens per second of `glinthawk run-batch` on a workload, everything included.

    python -m benchmarks.throughput --workload A --layer-workers 1 --attention-workers 1

The clock runs from the upload of the batch file to its last result, prefill included; starting the
processes and loading the weights is not in it.
"""

import json
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from benchmarks.workloads import SHAPES, WORKLOADS, make_checkpoint, write_batch
from services.admin.local_cluster import ClusterPlan
from services.admin.run_batch import BatchFiles, run_batch

CACHE = Path.home() / ".cache" / "glinthawk"


def main(  # noqa: PLR0913 - one argument per option
    workload: Annotated[str, typer.Option(help="A, B or C.")] = "A",
    layer_workers: int = 1,
    attention_workers: int = 1,
    in_flight: int | None = None,
    dtype: str = "auto",
    threads: int | None = None,
    max_num_batched_tokens: int = 2048,
    runs: int = 1,
) -> None:
    """Run a workload and print each run's report as a line of JSON."""
    chosen = WORKLOADS[workload]
    shape = SHAPES[chosen.model]
    model = make_checkpoint(CACHE / chosen.model, shape)
    for _ in range(runs):
        with TemporaryDirectory() as folder:
            batch = write_batch(Path(folder) / "in.jsonl", chosen, shape.vocab_size)
            files = BatchFiles(input=batch, output=Path(folder) / "out.jsonl", report=None)
            plan = ClusterPlan(
                layer_workers=layer_workers,
                attention_workers=attention_workers,
                router={
                    "model": model,
                    "in-flight": in_flight,
                    "dtype": dtype,
                    "max-num-batched-tokens": max_num_batched_tokens,
                },
                attention={"kv-memory": "4GiB"},
                threads=threads,
            )
            print(json.dumps({"workload": workload, **asdict(run_batch(files, plan))}))


if __name__ == "__main__":
    typer.run(main)
