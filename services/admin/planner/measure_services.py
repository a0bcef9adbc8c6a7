"""What messages and microbatches cost the services themselves, among engines that take no time."""

import os
from dataclasses import dataclass
from pathlib import Path

from common.messages.tensor import DTYPE_BYTES
from common.model_spec import ModelSpec
from common.policy.profile import (
    AttentionTimes,
    LayerTimes,
    MessageTimes,
    ModelShape,
    Profile,
    RouterTimes,
)
from services.admin.bench.workloads import Workload, make_prompts, write_batch
from services.admin.local_cluster import ClusterPlan, LocalCluster
from services.admin.planner.models import of_spec
from services.admin.planner.timed_job import TimedJob, pin, run_timed

_FEW, _MANY = 4, 64
"""Entries of the two jobs whose difference is what bytes and entries cost."""
_PROMPT_TOKENS, _OUTPUT_TOKENS = 4, 200


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceTimes:
    """The costs, and how long a message is under way between two processes of this machine."""

    layer: MessageTimes
    attention: MessageTimes
    router: RouterTimes
    latency_s: float


def measure_services(
    directory: Path, spec: ModelSpec, dtype: str, folder: Path, *, pinned: bool
) -> ServiceTimes:
    """Run two jobs through a router, a KV manager and one worker of each tier, one microbatch at once.

    Args:
        directory: Of the model.
        spec: Its own.
        dtype: Of activations.
        folder: For files that are needed on the way.
        pinned: Keep the layer worker on the first core, and all others on the last.

    Raises:
        GlinthawkError: The cluster does not work.
    """
    plan = _plan(directory, spec, dtype, folder)
    with LocalCluster(plan) as cluster:
        cluster.wait_until_ready().close()
        _run(cluster, spec, folder, _FEW)  # all threads and links are there afterwards
        if pinned:
            cores = sorted(os.sched_getaffinity(0))
            pin(cluster, {_LAYER_WORKER: cores[0], _ATTENTION_WORKER: cores[-1]})
        few, many = (_run(cluster, spec, folder, count) for count in (_FEW, _MANY))
    return _solve(few, many, spec, dtype)


def _run(cluster: LocalCluster, spec: ModelSpec, folder: Path, num_requests: int) -> TimedJob:
    workload = Workload(
        model="any",
        num_requests=num_requests,
        prompt_tokens=_PROMPT_TOKENS,
        output_tokens=_OUTPUT_TOKENS,
    )
    prompts = make_prompts(workload, spec.vocab_size, seed=0)
    batch = write_batch(folder / f"{num_requests}.jsonl", workload, prompts)
    return run_timed(cluster, batch, num_requests * _OUTPUT_TOKENS)


def _solve(few: TimedJob, many: TimedJob, spec: ModelSpec, dtype: str) -> ServiceTimes:
    """Split what a process worked per layer into messages and bytes, and so with the router's."""
    out, back = spec.qkv_size, spec.query_size
    row_bytes = DTYPE_BYTES[dtype] * (out + back)

    def per_layer(name: str) -> MessageTimes:
        small, large = (
            job.processor_s[name] / (_OUTPUT_TOKENS * spec.num_layers) for job in (few, many)
        )
        byte_s = max((large - small) / ((_MANY - _FEW) * row_bytes), _SHORTEST_S)
        message_s = max(0.0, small - byte_s * _FEW * row_bytes) / 2
        return MessageTimes(message_s=message_s, bytes_per_s=1 / byte_s)

    small, large = (job.processor_s["router"] / _OUTPUT_TOKENS for job in (few, many))
    entry_s = max(0.0, large - small) / (_MANY - _FEW)
    router = RouterTimes(microbatch_s=max(0.0, small - _FEW * entry_s), entry_s=entry_s)
    pass_s = _FEW / few.steady_tokens_per_s()
    worked_s = sum(few.processor_s[name] for name in _WORKERS) / _OUTPUT_TOKENS + small
    num_messages = 2 * spec.num_layers + 2
    return ServiceTimes(
        layer=per_layer(_LAYER_WORKER),
        attention=per_layer(_ATTENTION_WORKER),
        router=router,
        latency_s=max(0.0, pass_s - worked_s) / num_messages,
    )


_LAYER_WORKER, _ATTENTION_WORKER = _WORKERS = ("layer-worker-0", "attention-worker-0")
_SHORTEST_S = 1e-15


def _plan(directory: Path, spec: ModelSpec, dtype: str, folder: Path) -> ClusterPlan:
    shape = of_spec("any", spec).shape
    nothing_s = (0.0, 0.0)
    layer = LayerTimes(rows=(1, 2), pre_s=nothing_s, post_s=nothing_s, classify_s=nothing_s)
    attention = AttentionTimes(kv_bytes_per_s=1e30, flops_per_s=1e30, overhead_s=0.0)
    return ClusterPlan(
        layer_workers=1,
        attention_workers=1,
        router={
            "model": directory,
            "compute": "emulated",
            "dtype": dtype,
            "in_flight": 1,
            "max_num_seqs": _MANY,
        },
        layer={"compute": "emulated", "profile": _write(folder / "layer.json", shape, layer)},
        attention={
            "compute": "emulated",
            "profile": _write(folder / "attention.json", shape, attention),
            "kv_memory": "64GiB",
        },
        threads=1,
    )


def _write(path: Path, shape: ModelShape, times: LayerTimes | AttentionTimes) -> Path:
    profile = Profile(
        version=1,
        node="free",
        source="roofline",
        assumptions={"all": "nothing takes time"},
        dtype="bf16",
        model=shape,
        layer=times if isinstance(times, LayerTimes) else None,
        attention=times if isinstance(times, AttentionTimes) else None,
    )
    path.write_text(profile.model_dump_json())
    return path
