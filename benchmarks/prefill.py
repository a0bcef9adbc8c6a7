"""Prompts of one chunk that attend on tier 1, against tier 2: bytes between the tiers, and tokens/s.

    python -m benchmarks.prefill
    python -m benchmarks.prefill --mbit-per-s 200

Both clusters stand ready, and take turns. A request generates one token, so that a job is all prefill. With
a rate, everything that a process sends goes through one wire of that rate.
"""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer

from common.errors import GlinthawkError
from common.model_spec import read_model_spec
from services.admin.bench.sites import ClusterSite
from services.admin.bench.workloads import Workload, find_model, make_prompts, write_batch
from services.admin.local_cluster import LocalCluster
from services.admin.options import make_plan
from services.router.job_account import JobReport

_PLACES = ("tier2", "tier1")
_WORKERS = ("layer-worker", "attention-worker")


def main(
    mbit_per_s: Annotated[float | None, typer.Option(help="Of each process's wire.")] = None,
    model: str = "random:llama-300m",
    requests: int = 8,
    prompt_tokens: int = 512,
    runs: int = 3,
) -> None:
    """Run the same jobs on both clusters, in turns."""
    workload = Workload(
        model=model, num_requests=requests, prompt_tokens=prompt_tokens, output_tokens=1
    )
    with TemporaryDirectory(prefix="glinthawk-bench-") as name, ExitStack() as stack:
        batches = _batches(Path(name), workload)
        sites = {
            place: stack.enter_context(_Site(workload, place, mbit_per_s)) for place in _PLACES
        }
        for site in sites.values():
            site.run(next(batches))  # warms up
        reports: dict[str, list[JobReport]] = {place: [] for place in _PLACES}
        for _ in range(runs):
            for place, site in sites.items():
                reports[place].append(site.run(next(batches)))
    print(json.dumps(_sum_up(reports) | {"mbit_per_s": mbit_per_s}))


class _Site:
    """A cluster whose prompts attend on one of the tiers."""

    def __init__(self, workload: Workload, place: str, mbit_per_s: float | None) -> None:
        self._plan = make_plan(
            {
                "model": find_model(workload.model),
                "prefill_attention": place,
                "max_model_len": workload.prompt_tokens + workload.output_tokens,
                "max_num_seqs": workload.num_requests,
                "link_mbit_per_s": mbit_per_s,
            }
        )
        self._cluster = LocalCluster(self._plan)
        self._site: ClusterSite | None = None

    def __enter__(self) -> "_Site":
        self._cluster.__enter__()
        self._site = ClusterSite(self._cluster, self._plan)
        return self

    def __exit__(self, *_: object) -> None:
        self._cluster.stop()

    def run(self, batch: Path) -> JobReport:
        assert self._site
        report = self._site.run(batch)
        if report.failed:
            raise GlinthawkError(f"{report.failed} requests failed, so figures mean nothing")
        return report


def _batches(folder: Path, workload: Workload) -> Iterator[Path]:
    """Write batch files without end, each with prompts that no other has."""
    vocab_size = read_model_spec(Path(find_model(workload.model))).vocab_size
    for seed in count():
        prompts = make_prompts(workload, vocab_size, seed)
        yield write_batch(folder / f"{seed}.jsonl", workload, prompts)


def _sum_up(reports: dict[str, list[JobReport]]) -> dict[str, Any]:
    walls = {place: [each.wall_s for each in runs] for place, runs in reports.items()}
    sizes = {
        place: median(_between_the_tiers(each) for each in runs) for place, runs in reports.items()
    }
    before, after = _PLACES
    ratios = [slow / fast for slow, fast in zip(walls[before], walls[after], strict=True)]
    return {
        "wall_s": walls,
        "bytes": sizes,
        "bytes_ratio": sizes[after] / sizes[before],
        "speed_ratio": median(ratios),
        "speed_ratios": sorted(ratios),
    }


def _between_the_tiers(report: JobReport) -> int:
    """Give the bytes that workers of both tiers sent to each other."""
    return sum(
        size
        for link, size in report.bytes_per_link.items()
        if all(worker in link for worker in _WORKERS)
    )


if __name__ == "__main__":
    typer.run(main)
