"""What it costs that requests come as streaming calls and not as the lines of a batch.

    python -m benchmarks.api_overhead

The same requests run on one cluster in both ways, in alternating pairs: as a batch job, from its upload
to its last result, and as calls that are all made at once, to the last token. The clients share the
machine's cores with the workers. Prompts are shorter than a page, so that the second way finds none of
the first way's pages.
"""

import asyncio
import json
import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import typer
import uvloop

from benchmarks.callers import ask
from services.admin.bench.workloads import SHAPES, choose_workload, find_model, make_prompts
from services.admin.local_cluster import ClusterPlan, LocalCluster
from services.admin.run_batch import BatchFiles, run_batch


def main(
    requests: int = 64, prompt_tokens: int = 32, output_tokens: int = 128, pairs: int = 3
) -> None:
    """Run all pairs after one to warm up, and print the tokens per second of both ways."""
    workload = choose_workload(
        "C", num_requests=requests, prompt_tokens=prompt_tokens, output_tokens=output_tokens
    )
    plan = ClusterPlan(
        layer_workers=1,
        attention_workers=1,
        router={"model": find_model(workload.model), "max-num-seqs": requests},
        attention={"kv-memory": "2GiB"},
    )
    rates: dict[str, list[float]] = {"batch": [], "calls": []}
    with TemporaryDirectory() as name, LocalCluster(plan) as cluster:
        cluster.wait_until_ready().close()
        for pair in range(pairs + 1):
            prompts = make_prompts(workload, SHAPES["stories-110m"].vocab_size, seed=pair)
            bodies = [_body(prompt, output_tokens) for prompt in prompts]
            num_tokens = requests * output_tokens
            rates["batch"].append(num_tokens / _batch_s(Path(name), cluster.url, bodies))
            rates["calls"].append(num_tokens / uvloop.run(_calls_s(cluster.url, bodies)))
    ratios = [calls / batch for batch, calls in zip(*rates.values(), strict=True)][1:]
    print(
        json.dumps(
            {
                "batch_tokens_per_s": [round(rate) for rate in rates["batch"][1:]],
                "calls_tokens_per_s": [round(rate) for rate in rates["calls"][1:]],
                "calls_over_batch": [round(ratio, 3) for ratio in ratios],
                "median": round(statistics.median(ratios), 3),
            }
        )
    )


def _body(prompt: list[int], output_tokens: int) -> dict[str, Any]:
    # Without a tokenizer there is no text: the ids make sure that every token is told.
    return {
        "prompt": prompt,
        "max_tokens": output_tokens,
        "temperature": 0,
        "ignore_eos": True,
        "return_token_ids": True,
    }


def _batch_s(folder: Path, url: str, bodies: list[dict[str, Any]]) -> float:
    path = folder / "in.jsonl"
    lines = [
        {"custom_id": str(number), "method": "POST", "url": "/v1/completions", "body": body}
        for number, body in enumerate(bodies)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    files = BatchFiles(input=path, output=folder / "out.jsonl", report=None)
    report = run_batch(files, url)
    assert report.failed == 0
    return report.wall_s


async def _calls_s(url: str, bodies: list[dict[str, Any]]) -> float:
    started_s = time.monotonic()
    streams = await asyncio.gather(*(ask(url, {**body, "stream": True}) for body in bodies))
    wall_s = time.monotonic() - started_s
    assert all(len(stream.told_s) == bodies[0]["max_tokens"] for stream in streams)
    return wall_s


if __name__ == "__main__":
    typer.run(main)
