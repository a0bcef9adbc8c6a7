"""What messages and microbatches cost the services themselves, at work on a model."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from common.messages.tensor import DTYPE_BYTES
from common.model_spec import ModelSpec
from common.policy.profile import MessageTimes, RouterTimes
from services.admin.bench.workloads import Workload, make_prompts, write_batch
from services.admin.local_cluster import ClusterPlan, LocalCluster
from services.admin.planner.timed_job import TimedJob, pin, run_timed

ALONE, FEW, MANY = 8, 16, 128
"""Requests of a job that shows what waiting is like, with one microbatch, and of the two jobs whose
difference is what bytes and entries cost."""
PROMPT_TOKENS = 4
IN_FLIGHT = 4
"""Of those two jobs, so that both tiers work all the time, as they do when it matters."""
PAGE_SIZE = 64
_ROUTER, LAYER_WORKER, ATTENTION_WORKER = "router", "layer-worker-0", "attention-worker-0"
_SHORTEST_S = 1e-15


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """A cluster to be watched: one worker of each tier."""

    directory: Path
    """Of the model."""
    spec: ModelSpec
    """Its own."""
    dtype: str
    """Of weights and activations."""
    kv_dtype: str
    output_tokens: int
    """Of each request."""
    threads: int | None
    cores: tuple[int, int] | None
    """The layer worker's and everybody else's; None is wherever they are put."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceTimes:
    """The costs, and the jobs that they were found in."""

    layer: MessageTimes
    attention: MessageTimes
    router: RouterTimes
    alone: TimedJob
    few: TimedJob
    many: TimedJob


def measure_services(services: Services, folder: Path) -> ServiceTimes:
    """Run three jobs, and split what the processes worked into messages, bytes and entries.

    Args:
        services: To run.
        folder: For the jobs' files.

    Raises:
        GlinthawkError: The cluster does not work.
    """
    (alone,) = _watch(services, folder, 1, (ALONE,))
    few, many = _watch(services, folder, IN_FLIGHT, (FEW, MANY))
    return _solve(alone, few, many, services)


def _watch(services: Services, folder: Path, in_flight: int, jobs: Sequence[int]) -> list[TimedJob]:
    """Run jobs of so many requests each, on processes that have warmed up."""
    with LocalCluster(_plan(services, in_flight)) as cluster:
        cluster.wait_until_ready().close()
        _run(cluster, services, folder, ALONE)  # all threads and links are there afterwards
        if services.cores:
            layer_core, other_core = services.cores
            pin(cluster, {LAYER_WORKER: layer_core, ATTENTION_WORKER: other_core})
        return [_run(cluster, services, folder, count) for count in jobs]


def _plan(services: Services, in_flight: int) -> ClusterPlan:
    spec = services.spec
    token_bytes = 2 * spec.kv_size * spec.num_layers * DTYPE_BYTES[services.kv_dtype]
    # A page more than needed: they are granted ahead.
    tokens = PROMPT_TOKENS + services.output_tokens + 2 * PAGE_SIZE
    return ClusterPlan(
        layer_workers=1,
        attention_workers=1,
        router={
            "model": services.directory,
            "dtype": services.dtype,
            "kv_cache_dtype": services.kv_dtype,
            "in_flight": in_flight,
            "max_num_seqs": MANY,
        },
        attention={"kv_memory": 2 * MANY * tokens * token_bytes},
        threads=services.threads or len(os.sched_getaffinity(0)),
    )


def _run(cluster: LocalCluster, services: Services, folder: Path, num_requests: int) -> TimedJob:
    workload = Workload(
        model="any",
        num_requests=num_requests,
        prompt_tokens=PROMPT_TOKENS,
        output_tokens=services.output_tokens,
    )
    prompts = make_prompts(workload, services.spec.vocab_size, seed=0)
    batch = write_batch(folder / f"{num_requests}.jsonl", workload, prompts)
    return run_timed(cluster, batch, num_requests * services.output_tokens)


def _solve(alone: TimedJob, few: TimedJob, many: TimedJob, services: Services) -> ServiceTimes:
    """Split what the loops worked per layer into messages and bytes; the router's into entries."""
    spec, num_tokens = services.spec, services.output_tokens
    row_bytes = DTYPE_BYTES[services.dtype] * (spec.qkv_size + spec.query_size)
    job_bytes = row_bytes * (PROMPT_TOKENS + num_tokens - 1)  # of a request, in one layer

    def per_layer(name: str) -> MessageTimes:
        message_s, byte_s = two_rates(
            [
                (2 * job.microbatches, count * job_bytes)
                for job, count in ((few, FEW), (many, MANY))
            ],
            [job.loop_s[name] / spec.num_layers for job in (few, many)],
        )
        return MessageTimes(message_s=message_s, bytes_per_s=1 / max(byte_s, _SHORTEST_S))

    microbatch_s, entry_s = two_rates(
        [(few.microbatches, FEW * num_tokens), (many.microbatches, MANY * num_tokens)],
        [job.processor_s[_ROUTER] for job in (few, many)],
    )
    return ServiceTimes(
        layer=per_layer(LAYER_WORKER),
        attention=per_layer(ATTENTION_WORKER),
        router=RouterTimes(
            microbatch_s=microbatch_s,
            entry_s=entry_s,
            job_s=max(0.0, alone.first_token_s - alone.wall_s / num_tokens),
        ),
        alone=alone,
        few=few,
        many=many,
    )


def two_rates(
    amounts: Sequence[tuple[float, float]], seconds: Sequence[float]
) -> tuple[float, float]:
    """Find what one of each kind took, from two jobs that had so many of either; never less than 0."""
    (first, second), (other_first, other_second) = amounts
    determinant = first * other_second - second * other_first
    of_second = (first * seconds[1] - other_first * seconds[0]) / determinant
    of_second = max(0.0, of_second)
    return max(0.0, (seconds[0] - of_second * second) / first), of_second
