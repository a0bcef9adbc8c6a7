"""The simulator's prediction against measurement on this machine.

    python -m benchmarks.fidelity --profiles FOLDER
    python -m benchmarks.fidelity --emulated examples/planning/nine-t4s-emulated.yaml

The first runs real services: layer workers on one core, attention workers, the router and all else on
another. Profiles are measured first unless FOLDER has them. The second runs emulated workers, in
real processes, against the simulation of the same file.
"""

import json
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from common.ids import ROUTER_ID, WorkerId
from common.policy.ordering import deepest_first
from services.admin.bench.workloads import Workload, find_model, make_prompts, write_batch
from services.admin.local_cluster import ClusterPlan, LocalCluster
from services.admin.planner.cluster_file import ClusterFile, Tier, read_cluster
from services.admin.planner.emulation import emulated_plan
from services.admin.planner.hardware import Links
from services.admin.planner.lengths import Lengths
from services.admin.planner.simulation import make_virtual, simulate
from services.admin.planner.timed_job import pin, run_timed
from services.admin.planner.virtual_job import VirtualJob

MODEL = "random:stories-110m"
_VOCABULARY = 32000
_MEMORY_GIB = 2
_NO_BOUND_GBPS = 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A cluster on two cores and a job."""

    ranges: int = 1
    workers: int = 1
    """Attention workers."""
    in_flight: int
    requests: int
    prompt_tokens: int = 32
    output_tokens: int = 128
    link_delay_ms: float = 0.0
    """One way, of every message."""

    @property
    def lengths(self) -> list[Lengths]:
        """Of the requests."""
        return [Lengths(self.prompt_tokens, self.output_tokens)] * self.requests


CASES = (
    Case(in_flight=1, requests=8),
    Case(in_flight=1, requests=32),
    Case(in_flight=2, requests=32),
    Case(in_flight=1, requests=64),
    Case(in_flight=2, requests=64),
    Case(in_flight=4, requests=64),
    Case(in_flight=2, requests=32, link_delay_ms=2),
    Case(in_flight=4, requests=64, link_delay_ms=2),
    Case(in_flight=1, requests=32, prompt_tokens=512, output_tokens=64),
    Case(in_flight=2, requests=32, prompt_tokens=512, output_tokens=64),
    Case(in_flight=1, requests=32, link_delay_ms=5),
    Case(in_flight=3, requests=48, prompt_tokens=128, output_tokens=64),
    Case(ranges=2, in_flight=2, requests=32),
    Case(workers=2, in_flight=2, requests=64),
    Case(ranges=2, workers=2, in_flight=3, requests=48),
    Case(ranges=2, in_flight=4, requests=64, link_delay_ms=2),
)


def main(
    profiles: Annotated[Path | None, typer.Option(help="Measured here, or to be.")] = None,
    emulated: Annotated[Path | None, typer.Option(help="A cluster file.")] = None,
    first: Annotated[int, typer.Option(help="Case to begin with.")] = 0,
    stop: Annotated[int, typer.Option(help="Case to stop before.")] = len(CASES),
) -> None:
    """Print a line of JSON per case, and the median and the worst error."""
    if emulated is not None:
        print(json.dumps(compare_emulated(read_cluster(emulated))))
        return
    with TemporaryDirectory() as name:
        folder = profiles or Path(name)
        if not (folder / "router.json").exists():
            _measure(folder)
        errors = []
        for case in CASES[first:stop]:
            predicted, measured = predict(case, folder), run(case)
            errors.append(abs(predicted / measured - 1))
            print(json.dumps({**asdict(case), **_compared(predicted, measured)}), flush=True)
    print(json.dumps({"median": round(median(errors), 3), "worst": round(max(errors), 3)}))


def _compared(predicted: float, measured: float) -> dict[str, float]:
    return {
        "predicted": round(predicted, 1),
        "measured": round(measured, 1),
        "error": round(predicted / measured - 1, 3),
    }


def _measure(folder: Path) -> None:
    """Measure with one thread on one core, as the workers will run."""
    command = ["--model", MODEL, "--threads", "1", "--pin", "-o", str(folder)]
    subprocess.run(
        [sys.executable, "-m", "services.admin", "profile", *command], check=True, stdout=sys.stderr
    )


def predict(case: Case, folder: Path) -> float:
    """Simulate a case: output tokens per second of the whole job."""
    cluster = ClusterFile(
        model=find_model(MODEL),
        tier1=Tier(
            device=str(folder / "layer-worker.json"), nodes=case.ranges, memory_gib=_MEMORY_GIB
        ),
        tier2=Tier(
            device=str(folder / "attention-worker.json"),
            nodes=case.workers,
            memory_gib=_MEMORY_GIB,
        ),
        network=Links(bandwidth_gbps=_NO_BOUND_GBPS, rtt_ms=2 * case.link_delay_ms),
        router={"in_flight": case.in_flight, "max_num_seqs": case.requests},
        router_profile=folder / "router.json",
    )
    virtual, _ = make_virtual(cluster, Path(cluster.model), deepest_first, core_of=_core)
    job = VirtualJob(case.lengths)
    assert virtual.run(job), "the job ends"
    return case.requests * case.output_tokens / (job.ended_s - job.submitted_s)


def _core(worker_id: WorkerId) -> int:
    return _LAYER_CORE if worker_id.startswith("layer-worker") else _OTHER_CORE


_LAYER_CORE, _OTHER_CORE = 0, 1


def run(case: Case) -> float:
    """Measure a case."""
    plan = ClusterPlan(
        layer_workers=case.ranges,
        attention_workers=case.workers,
        router={
            "model": find_model(MODEL),
            "in_flight": case.in_flight,
            "max_num_seqs": case.requests,
        },
        attention={"kv_memory": f"{_MEMORY_GIB}GiB"},
        shared={"link_delay_ms": case.link_delay_ms or None},
        threads=1,
    )
    names = [f"layer-worker-{index}" for index in range(case.ranges)]
    cores = dict.fromkeys(names, _LAYER_CORE) | {ROUTER_ID: _OTHER_CORE}
    with TemporaryDirectory() as name, LocalCluster(plan) as cluster:
        cluster.wait_until_ready().close()
        warm_up = _write(case, Path(name), output_tokens=8)
        run_timed(cluster, warm_up, 8 * case.requests)
        pin(cluster, cores)
        batch = _write(case, Path(name), output_tokens=case.output_tokens)
        return run_timed(cluster, batch, case.output_tokens * case.requests).tokens_per_s


def _write(case: Case, folder: Path, output_tokens: int) -> Path:
    workload = Workload(
        model="any",
        num_requests=case.requests,
        prompt_tokens=case.prompt_tokens,
        output_tokens=output_tokens,
    )
    # Other prompts for other jobs: no job finds what another has computed.
    prompts = make_prompts(workload, _VOCABULARY, seed=output_tokens)
    return write_batch(folder / f"{output_tokens}.jsonl", workload, prompts)


def compare_emulated(cluster: ClusterFile) -> dict[str, float]:
    """Run a cluster file as emulated processes, and simulate it; in seconds of the emulated cluster."""
    case = Case(
        in_flight=int(cluster.router["in_flight"]),
        requests=int(cluster.router["max_num_seqs"]),
        prompt_tokens=_EMULATED_TOKENS,
        output_tokens=_EMULATED_TOKENS,
    )
    predicted = simulate(cluster, case.lengths).output_tokens_per_s
    with (
        emulated_plan(cluster) as plan,
        TemporaryDirectory() as name,
        LocalCluster(plan) as processes,
    ):
        batch = _write(case, Path(name), output_tokens=case.output_tokens)
        job = run_timed(processes, batch, case.requests * case.output_tokens)
    measured = job.tokens_per_s * cluster.time_scale
    busy = sum(job.processor_s.values()) / job.wall_s
    return {"processes": len(job.processor_s), "cores_busy": round(busy, 2)} | _compared(
        predicted, measured
    )


_EMULATED_TOKENS = 4


if __name__ == "__main__":
    typer.run(main)
