"""Where the jobs of a benchmark run: on processes of this machine, or in this one process."""

import json
import os
import time
from pathlib import Path
from typing import Protocol

from common.config import load_settings
from common.ids import JobId
from common.model_spec import read_model_spec, resolve_model
from common.runtime.process import keep_freed_memory, set_thread_environment
from services.admin.client import RouterClient
from services.admin.local_cluster import ClusterPlan, LocalCluster
from services.admin.run_batch import BatchFiles, run_batch
from services.attention_worker.config import AttentionWorkerSettings
from services.router.config import RouterSettings
from services.router.job_account import JobAccount, JobReport, LineCounts
from services.router.lines import LineFinished, LineOutcome, ParsedLine
from services.router.text.ingest import read_defaults
from services.router.text.line_parser import JobFacts, LineParser
from services.router.text.tokens import Tokenizer

_FIRST_LINE = json.dumps(
    {
        "custom_id": "first",
        "method": "POST",
        "url": "/v1/completions",
        "body": {"model": "any", "prompt": [0], "max_tokens": 1},
    }
)


class Site(Protocol):
    """Runs jobs, one after the other; once it is there, weights are loaded."""

    def run(self, batch: Path) -> JobReport:
        """Run a job to its end."""
        ...

    def computing(self, report: JobReport) -> float:
        """Give the share of a job's wall time in which at least one tier computed, as far as known."""
        ...

    def in_flight(self) -> int:
        """Give the most microbatches that travel at once."""
        ...

    def peak_rss_bytes(self) -> dict[str, int]:
        """Give the most memory that each process has had resident so far."""
        ...


class ClusterSite:
    """A cluster of processes on this machine."""

    def __init__(self, cluster: LocalCluster, plan: ClusterPlan) -> None:
        """Wait until the cluster is ready."""
        self._cluster = cluster
        self._plan = plan
        cluster.wait_until_ready().close()

    def run(self, batch: Path) -> JobReport:
        """Run a job to its end, as `run-batch` does."""
        output = batch.with_suffix(".results")
        return run_batch(BatchFiles(input=batch, output=output, report=None), self._cluster)

    def computing(self, report: JobReport) -> float:
        """Add the tiers up where they take turns; else it is the busier one's share, at least."""
        if self.in_flight() == 1:
            return self._plan.layer_workers * report.tier1_busy + report.tier2_busy
        return max(report.tier1_busy, report.tier2_busy)

    def in_flight(self) -> int:
        """Ask the router."""
        client = RouterClient(self._cluster.url)
        try:
            return int(client.status()["in_flight"]["limit"])
        finally:
            client.close()

    def peak_rss_bytes(self) -> dict[str, int]:
        """Look at every process; what it started itself is not in it."""
        return {name: peak_rss_bytes(pid) for name, pid in self._cluster.processes().items()}


class InlineSite:
    """All services in this process, on one thread, which never waits: what two tiers cost is missing."""

    def __init__(self, plan: ClusterPlan, device: str = "cpu") -> None:
        """Load the weights.

        Args:
            plan: Of the cluster that it stands in for.
            device: What everything is computed on, in torch's words.
        """
        # Before torch is loaded, which must find the thread counts in the environment.
        set_thread_environment(plan.threads)
        keep_freed_memory()
        from services.admin.inline import InlineCluster, InlineEngines
        from services.router.service import served_model

        shape = {"layer_workers": plan.layer_workers, "attention_workers": plan.attention_workers}
        settings = load_settings(RouterSettings, {**plan.router, **shape})
        directory = resolve_model(settings.model)
        served = served_model(settings, read_model_spec(directory), directory)
        self._parser = LineParser(served, Tokenizer(directory), read_defaults(directory))
        self._plan = plan
        engines = InlineEngines.real(
            settings,
            kv_memory=load_settings(AttentionWorkerSettings, plan.attention).kv_memory,
            threads=plan.threads,
            device=device,
        )
        self._cluster = InlineCluster(settings, engines=engines)
        self._cluster.generate(self._parse([_FIRST_LINE]))  # only now are weights loaded

    def run(self, batch: Path) -> JobReport:
        """Run a job to its end."""
        before = self._cluster.status()
        started_s = time.perf_counter()
        texts = batch.read_text(encoding="utf-8").splitlines()
        outcomes = self._cluster.generate(self._parse(texts))
        wall_s = time.perf_counter() - started_s
        account = JobAccount()
        account.add(before, self._cluster.status(), wall_s, prices={})
        return account.report(_counts(outcomes))

    def _parse(self, texts: list[str]) -> list[ParsedLine]:
        job = JobFacts(job_id=JobId("bench"), endpoint=None, seed=0)
        return [self._parser.parse(job, number, text) for number, text in enumerate(texts)]

    def computing(self, report: JobReport) -> float:
        """Add everything up: all take turns."""
        plan = self._plan
        return plan.layer_workers * report.tier1_busy + plan.attention_workers * report.tier2_busy

    def in_flight(self) -> int:
        """Give one: whatever travels, one engine computes at a time."""
        return 1

    def peak_rss_bytes(self) -> dict[str, int]:
        """Look at this process."""
        return {"inline": peak_rss_bytes(os.getpid())}


def peak_rss_bytes(pid: int) -> int:
    """Give the most memory that a process has had resident (VmHWM)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "VmHWM":
            return int(value.split()[0]) * 1024
    return 0  # it has ended


def _counts(outcomes: list[LineOutcome]) -> LineCounts:
    finished = [each for each in outcomes if isinstance(each, LineFinished)]
    return LineCounts(
        rows=len(outcomes),
        failed=len(outcomes) - len(finished),
        prompt_tokens=sum(len(prompt) for each in finished for prompt in each.line.prompts),
        generated_tokens=sum(len(choice.token_ids) for each in finished for choice in each.choices),
    )
