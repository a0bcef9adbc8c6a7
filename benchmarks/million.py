"""A job of very many short lines: what the router holds in memory, and how fast lines pass through.

    python -m benchmarks.million --lines 1000000

Workers are emulated and nothing takes them time, so that intake, the job store and results are all there
is to wait for. Prompts are texts, and are tokenised; every process shares this machine's cores. Memory is
the most that was resident, of the router and of the ingest process beside it.
"""

import json
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import psutil
import typer

from benchmarks.emulated import (
    VOCAB_SIZE,
    attention_options,
    layer_options,
    write_model,
    write_tokenizer,
)
from services.admin.bench.sites import peak_rss_bytes
from services.admin.local_cluster import ClusterPlan, LocalCluster
from services.admin.run_batch import BatchFiles, run_batch

_MIB = 2**20


def main(
    lines: int = 1_000_000,
    prompt_words: int = 8,
    output_tokens: int = 2,
    max_num_seqs: Annotated[int, typer.Option(help="Requests that run at once.")] = 512,
    in_flight: Annotated[int, typer.Option(help="Microbatches under way at once.")] = 2,
    folder: Annotated[Path | None, typer.Option(help="For input, job store and output.")] = None,
) -> None:
    """Run one job, and print seconds, lines per second and peak memory."""
    with TemporaryDirectory(dir=folder) as name:
        place = Path(name)
        model = write_model(place / "model", 1)
        write_tokenizer(model)
        plan = ClusterPlan(
            layer_workers=1,
            attention_workers=1,
            router={
                "model": model,
                "compute": "emulated",
                "max-num-seqs": max_num_seqs,
                "in-flight": in_flight,
                "max-num-batched-tokens": max_num_seqs * prompt_words,
                "data-directory": place / "data",
            },
            layer=layer_options(place, 0.0),
            attention=attention_options(place),
            threads=1,
        )
        batch = _write_lines(place / "in.jsonl", lines, prompt_words, output_tokens)
        files = BatchFiles(input=batch, output=place / "out.jsonl", report=None)
        with LocalCluster(plan) as cluster:
            cluster.wait_until_ready().close()
            print(json.dumps({"input_mib": _mib(batch), **_measure(cluster, files, lines)}))


def _measure(cluster: LocalCluster, files: BatchFiles, lines: int) -> dict[str, float]:
    router = psutil.Process(cluster.processes()["router"])
    (ingest,) = router.children()
    before_s = {process: _cpu_s(process) for process in (router, ingest)}
    idle_mib = router.memory_info().rss // _MIB
    started_s = time.monotonic()
    report = run_batch(files, cluster)
    wall_s = time.monotonic() - started_s
    assert (report.rows, report.failed) == (lines, 0)
    spent_s = {process: _cpu_s(process) - before_s[process] for process in before_s}
    return {
        "lines": lines,
        "wall_s": round(wall_s, 1),
        "lines_per_s": round(lines / wall_s),
        "router_idle_mib": idle_mib,
        "router_peak_mib": peak_rss_bytes(router.pid) // _MIB,
        "ingest_peak_mib": peak_rss_bytes(ingest.pid) // _MIB,
        "router_us_per_line": round(spent_s[router] / lines * 1e6, 1),
        "ingest_us_per_line": round(spent_s[ingest] / lines * 1e6, 1),
    }


def _write_lines(path: Path, lines: int, prompt_words: int, output_tokens: int) -> Path:
    """Write lines whose prompts are all different."""
    with path.open("w", encoding="utf-8") as file:
        for number in range(lines):
            words = (number * (place + 1) + place for place in range(prompt_words))
            body = {
                "prompt": " ".join(f"w{3 + word % (VOCAB_SIZE - 3)}" for word in words),
                "max_tokens": output_tokens,
                "ignore_eos": True,
            }
            line = {"custom_id": f"row-{number}", "method": "POST", "url": "/v1/completions"}
            file.write(json.dumps({**line, "body": body}) + "\n")
    return path


def _mib(path: Path) -> int:
    return path.stat().st_size // _MIB


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


if __name__ == "__main__":
    typer.run(main)
