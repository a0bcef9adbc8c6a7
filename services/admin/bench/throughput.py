"""`glinthawk bench throughput`: tokens per second of a workload, and where its time goes.

A job with two output tokens per request warms up. Then each run is two jobs: the workload, and the
same once more with one output token per request.
What the first takes longer than the second is decode, and decode's rate is that of the tokens in it.
The clock runs from the upload of a batch file to its last result, prefill included; starting the
processes and loading the weights is not in it. Every job has prompts of its own, so that no job finds
what another has computed.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, TextIO

from common.errors import GlinthawkError, SettingsError
from common.model_spec import read_model_spec, resolve_model
from services.admin.bench.sites import ClusterSite, InlineSite, Site
from services.admin.bench.workloads import Workload, find_model, make_prompts, write_batch
from services.admin.local_cluster import ClusterPlan, LocalCluster
from services.admin.options import make_plan
from services.admin.trace import merge_traces
from services.router.job_account import JobReport

Compute = Literal["real", "inline", "emulated"]

_SPREAD = ("output_tokens_per_s", "decode_tokens_per_s", "wall_s")
_ONLY_ON_PROCESSES = {"link_delay_ms", "link_mbit_per_s", "trace_directory"}
_MAX_REQUESTS = 256
_WARM_UP_TOKENS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What one run came to."""

    output_tokens_per_s: float
    total_tokens_per_s: float
    """Prompt tokens counted, too."""
    decode_tokens_per_s: float | None
    """None where both jobs took equally long, as far as can be seen."""
    wall_s: float
    prefill_s: float
    """Wall time of the job with one output token."""
    tier1_busy: float
    tier2_busy: float
    bubbles: float
    """Share of the wall time in which neither tier computed."""
    in_flight: int
    bytes_per_link: Mapping[str, int]
    kernel_paths: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """All runs of a workload."""

    workload: Workload
    compute: Compute
    runs: tuple[Figures, ...]
    peak_rss_bytes: Mapping[str, int]
    """Of each process, over all runs."""

    @property
    def median(self) -> Figures:
        """The middle run by output tokens per second; of two, the slower."""
        ranked = sorted(self.runs, key=lambda run: run.output_tokens_per_s)
        return ranked[(len(ranked) - 1) // 2]

    def spread(self) -> dict[str, tuple[float, float]]:
        """Give the least and the most of what runs differ in."""
        values = {name: [getattr(run, name) for run in self.runs] for name in _SPREAD}
        return {
            name: (min(known), max(known))
            for name, each in values.items()
            if (known := [value for value in each if value is not None])
        }

    def write_json(self, out: TextIO) -> None:
        """Write one line of JSON: the median run's figures, and what belongs to all runs."""
        figures = {
            "workload": asdict(self.workload),
            "compute": self.compute,
            **asdict(self.median),
            "peak_rss_bytes": dict(self.peak_rss_bytes),
            "num_runs": len(self.runs),
            "spread": self.spread(),
        }
        out.write(json.dumps(figures) + "\n")

    def print(self, out: TextIO) -> None:
        """Write the figures for a person."""
        for name, value in self._rows().items():
            out.write(f"  {name:<10} {value}\n")

    def _rows(self) -> dict[str, str]:
        run, work = self.median, self.workload
        least, most = self.spread()["output_tokens_per_s"]
        spread = f" ({least:.1f} to {most:.1f} in {len(self.runs)} runs)"
        decode = run.decode_tokens_per_s
        memory = [f"{name} {size / 1e6:.0f} MB" for name, size in self.peak_rss_bytes.items()]
        links = [f"{link} {size / 1e6:.1f} MB" for link, size in run.bytes_per_link.items()]
        return {
            "workload": f"{work.num_requests} x ({work.prompt_tokens} + {work.output_tokens}) "
            f"tokens, {work.model}, {self.compute}",
            "output": f"{run.output_tokens_per_s:.1f} tokens/s" + spread * (len(self.runs) > 1),
            "total": f"{run.total_tokens_per_s:.1f} tokens/s",
            "decode": "-" if decode is None else f"{decode:.1f} tokens/s",
            "wall time": f"{run.wall_s:.1f} s, of it prefill {run.prefill_s:.1f} s",
            "busy": f"tier 1 {run.tier1_busy:.0%}, tier 2 {run.tier2_busy:.0%}, "
            f"bubbles {run.bubbles:.0%}, {run.in_flight} in flight",
            "kernels": ", ".join(run.kernel_paths),
            "links": "; ".join(links),
            "peak RSS": "; ".join(memory),
        }


def bench_throughput(
    workload: Workload,
    options: Mapping[str, Any],
    *,
    compute: Compute,
    num_runs: int,
    trace: Path | None = None,
) -> Measurement:
    """Measure a workload.

    Args:
        workload: What is submitted at once.
        options: What `with_cluster_options` gave the command.
        compute: On a cluster of processes, or `inline` in this one.
        num_runs: On one cluster, one after the other.
        trace: Where to write a trace of all runs.

    Raises:
        GlinthawkError: It cannot be measured; nothing is left running.
    """
    given = {name: value for name, value in options.items() if value is not None}
    with TemporaryDirectory(prefix="glinthawk-bench-") as name:
        folder = Path(name)
        if trace is not None:
            given.setdefault("trace_directory", folder / "trace")
        if compute != "inline":
            given["compute"] = compute
        elif given.keys() & _ONLY_ON_PROCESSES:
            message = "link delay, link rate and trace need processes: leave out --compute inline"
            raise SettingsError(message)
        plan = make_plan(_sized(given, workload))
        with _open_site(plan, compute) as site:
            batches = _Batches(folder, workload, str(plan.router["model"]))
            _run_whole(site, batches.write(_WARM_UP_TOKENS))
            runs = tuple(_run(site, batches) for _ in range(num_runs))
            peak_rss_bytes = site.peak_rss_bytes()
        if trace is not None:
            merge_traces(Path(given["trace_directory"]), trace)
    return Measurement(workload=workload, compute=compute, runs=runs, peak_rss_bytes=peak_rss_bytes)


def make_figures(full: JobReport, prefill: JobReport, computing: float, in_flight: int) -> Figures:
    """Sum up a run.

    Args:
        full: Of the workload's job.
        prefill: Of the job with one output token per request.
        computing: Share of the full job's wall time in which a tier computed.
        in_flight: Microbatches that travelled at once.
    """
    decode_s = full.wall_s - prefill.wall_s
    decode_tokens = full.generated_tokens - prefill.generated_tokens
    return Figures(
        output_tokens_per_s=full.output_tokens_per_s,
        total_tokens_per_s=(full.prompt_tokens + full.generated_tokens) / full.wall_s,
        decode_tokens_per_s=decode_tokens / decode_s if decode_s > 0 else None,
        wall_s=full.wall_s,
        prefill_s=prefill.wall_s,
        tier1_busy=full.tier1_busy,
        tier2_busy=full.tier2_busy,
        bubbles=max(0.0, 1 - computing),
        in_flight=in_flight,
        bytes_per_link=full.bytes_per_link,
        kernel_paths=full.kernel_paths,
    )


class _Batches:
    """Writes batch files, each with prompts that no other has."""

    def __init__(self, folder: Path, workload: Workload, model: str) -> None:
        self._folder = folder
        self._workload = workload
        self._vocab_size = read_model_spec(resolve_model(model)).vocab_size
        self._seeds = count()

    def write(self, output_tokens: int | None = None) -> Path:
        """Write the next one, if need be with fewer output tokens."""
        seed = next(self._seeds)
        workload = self._workload
        if output_tokens is not None:
            workload = replace(workload, output_tokens=output_tokens)
        prompts = make_prompts(workload, self._vocab_size, seed)
        return write_batch(self._folder / f"{seed}.jsonl", workload, prompts)


def _sized(given: Mapping[str, Any], workload: Workload) -> dict[str, Any]:
    """Fit lengths and limits to the workload, so that page pools get no larger than it needs."""
    return {
        "max_model_len": workload.prompt_tokens + workload.output_tokens,
        "max_num_seqs": min(workload.num_requests, _MAX_REQUESTS),
        **given,
        "model": find_model(workload.model),
    }


@contextmanager
def _open_site(plan: ClusterPlan, compute: Compute) -> Iterator[Site]:
    if compute == "inline":
        yield InlineSite(plan)
        return
    with LocalCluster(plan) as cluster:
        yield ClusterSite(cluster, plan)


def _run(site: Site, batches: _Batches) -> Figures:
    full = _run_whole(site, batches.write())
    prefill = _run_whole(site, batches.write(1))
    return make_figures(full, prefill, site.computing(full), site.in_flight())


def _run_whole(site: Site, batch: Path) -> JobReport:
    report = site.run(batch)
    if report.failed:
        message = f"{report.failed} of {report.rows} requests failed, so figures mean nothing"
        raise GlinthawkError(message)
    return report
