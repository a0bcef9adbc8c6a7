"""`glinthawk simulate`: a cluster's job in virtual time, decided by the services' own states."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

from common.config import load_settings
from common.errors import GlinthawkError, PoolTooLarge, SettingsError
from common.ids import Term
from common.messages import AttentionRole, LayerRole
from common.messages.tensor import DTYPE_BYTES
from common.model_spec import read_model_spec
from common.policy.ordering import Order, deepest_first
from common.policy.profile import read_profile
from services.admin.planner.cluster_file import ClusterFile
from services.admin.planner.devices import GIB
from services.admin.planner.hardware import find_profile
from services.admin.planner.lengths import Lengths
from services.admin.planner.models import PlannedModel, of_spec
from services.admin.planner.virtual_cluster import (
    NO_ROUTER,
    NOBODY_IS_LOST,
    VirtualCluster,
    VirtualPlan,
    attention_worker,
    layer_worker,
)
from services.admin.planner.virtual_job import VirtualJob
from services.admin.planner.virtual_workers import NO_COST, Costs
from services.attention_worker.cache_shape import CacheShape
from services.router.config import RouterSettings
from services.router.service import cluster_shape, router_state
from services.router.text.tokens import Tokenizer


class SimulationFailed(GlinthawkError):
    """The job does not end in virtual time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulationReport:
    """What a job came to."""

    rows: int
    failed: int
    prompt_tokens: int
    generated_tokens: int
    wall_s: float
    """Virtual seconds from the first line to the last result."""
    output_tokens_per_s: float
    tier1_busy: float
    tier2_busy: float
    in_flight: int
    microbatches: int
    pages: int
    """Of each attention worker."""
    extrapolated: bool
    """Something was larger than what the profiles cover."""
    events: int
    events_per_s: float
    """Of real time."""

    def write_json(self, out: TextIO) -> None:
        """Write one line of JSON."""
        out.write(json.dumps(asdict(self)) + "\n")

    def print(self, out: TextIO) -> None:
        """Write the report for a person."""
        for name, text in self._rows().items():
            out.write(f"  {name:<11} {text}\n")

    def _rows(self) -> Mapping[str, str]:
        marked = " (beyond what the profiles cover)" if self.extrapolated else ""
        return {
            "rows": f"{self.rows} ({self.failed} failed)",
            "tokens": f"{self.prompt_tokens} prompt, {self.generated_tokens} generated",
            "wall time": f"{self.wall_s:.1f} virtual s",
            "throughput": f"{self.output_tokens_per_s:.1f} output tokens/s{marked}",
            "busy": f"tier 1 {self.tier1_busy:.0%}, tier 2 {self.tier2_busy:.0%}",
            "in flight": f"{self.in_flight}, {self.microbatches} microbatches in all",
            "events": f"{self.events}, {self.events_per_s:.0f} per second",
        }


def simulate(
    cluster: ClusterFile,
    lengths: Sequence[Lengths],
    order: Order = deepest_first,
    shared_prefix: int = 0,
) -> SimulationReport:
    """Run a job on a cluster that is not there.

    Raises:
        GlinthawkError: The cluster cannot be, or the job does not end.
    """
    with cluster.model_directory() as directory:
        virtual, plan = make_virtual(cluster, directory, order)
        job = VirtualJob(lengths, shared_prefix)
        started_s = time.perf_counter()
        if not virtual.run(job):
            raise SimulationFailed(
                f"{job.num_unfinished} of {len(lengths)} lines do not end: nothing happens any more"
            )
    return make_report(virtual, plan, job, time.perf_counter() - started_s)


def make_virtual(
    cluster: ClusterFile, directory: Path, order: Order, **more: Any
) -> tuple[VirtualCluster, VirtualPlan]:
    """Put a virtual cluster together.

    Args:
        cluster: What it is.
        directory: Of the model.
        order: In which engines serve.
        more: Further fields of the plan.

    Raises:
        GlinthawkError: A setting, a profile or the model cannot be used.
    """
    settings = load_settings(
        RouterSettings, {**cluster.router_settings(directory), **NOBODY_IS_LOST}
    )
    spec = read_model_spec(directory)
    shape = cluster_shape(settings, spec, directory)
    model, role = of_spec(cluster.model, spec), shape.attention
    tier1, weights_bytes = find_profile(cluster.tier1, 1, model, cluster.kv_dtype)
    _check_weights(shape.ranges, model, weights_bytes)
    tier2, memory_bytes = find_profile(cluster.tier2, 2, model, cluster.kv_dtype)
    assert tier1.layer is not None, "it was checked"
    assert tier2.attention is not None, "it was checked"
    network = cluster.network.network()
    router = read_profile(cluster.router_profile) if cluster.router_profile else None
    own_latency_s = (router.latency_s or 0.0) if router else 0.0
    costs = Costs(
        layer=tier1.layer,
        attention=tier2.attention,
        role=role,
        hidden_size=spec.hidden_size,
        dtype=shape.ranges[0].dtype,
        latency_s=network.latency_s + own_latency_s,
        slice_latency_s=network.slice_latency_s + own_latency_s,
        layer_messages=tier1.messages or NO_COST,
        attention_messages=tier2.messages or NO_COST,
    )
    plan = VirtualPlan(
        shape=shape,
        costs=costs,
        num_pages=_num_pages(role, memory_bytes),
        bytes_per_s=(network.bytes_per_s, network.bytes_per_s),
        max_context=max((point.context for point in tier2.attention_points), default=None),
        router=(router.router if router else None) or NO_ROUTER,
        order=order,
        jitter=cluster.jitter,
        **more,
    )
    state = router_state(settings, shape, Term(1), Tokenizer(directory))
    return VirtualCluster(plan, state), plan


def _is_longer(job: VirtualJob, plan: VirtualPlan) -> bool:
    """Say whether a request sees more than attention was measured with."""
    longest = max(each.prompt + each.output - 1 for each in job.lengths)
    return plan.max_context is not None and longest > plan.max_context


def _check_weights(ranges: Sequence[LayerRole], model: PlannedModel, memory_bytes: float) -> None:
    """See that every layer worker can hold its weights.

    Raises:
        SettingsError: One cannot.
    """
    for index, role in enumerate(ranges):
        halves = model.weight_bytes(role.stop - role.start, embeds=role.first, classifies=role.last)
        needed = halves * DTYPE_BYTES[role.dtype] // DTYPE_BYTES["fp16"]
        if needed > memory_bytes:
            raise SettingsError(
                f"layers {role.start} to {role.stop} of {model.name} take {needed / GIB:.1f} GiB, "
                f"node {index} of tier 1 has {memory_bytes / GIB:.1f}: take more nodes"
            )


def _num_pages(role: AttentionRole, memory_bytes: float) -> int:
    """Count pages as an attention worker does."""
    shape = CacheShape(
        num_layers=role.num_layers,
        num_kv_heads=role.num_kv_heads,
        head_size=role.head_size,
        page_size=role.page_size,
        dtype=role.kv_dtype,
    )
    num_pages = int(memory_bytes // shape.bytes_per_page)
    if num_pages < 1:
        raise PoolTooLarge(
            f"a page takes {shape.bytes_per_page} bytes, a node of tier 2 has {memory_bytes:.0f}: "
            "give it more memory_gib"
        )
    return min(num_pages, role.useful_pages)


def make_report(
    virtual: VirtualCluster, plan: VirtualPlan, job: VirtualJob, real_s: float
) -> SimulationReport:
    """Sum up a job that has ended."""
    totals, wall_s = virtual.scheduler.totals, job.ended_s - job.submitted_s
    num_layer, num_attention = len(plan.shape.ranges), plan.shape.min_attention_workers
    tier1_s = sum(virtual.engines[layer_worker(each)].busy_s for each in range(num_layer))
    tier2_s = sum(virtual.engines[attention_worker(each)].busy_s for each in range(num_attention))
    return SimulationReport(
        rows=len(job.lengths),
        failed=len(job.failures),
        prompt_tokens=totals.prompt_tokens,
        generated_tokens=totals.generated_tokens,
        wall_s=wall_s,
        output_tokens_per_s=totals.generated_tokens / wall_s if wall_s else 0.0,
        tier1_busy=tier1_s / num_layer / wall_s if wall_s else 0.0,
        tier2_busy=tier2_s / num_attention / wall_s if wall_s else 0.0,
        in_flight=virtual.scheduler.throttle.in_flight,
        microbatches=totals.microbatches,
        pages=plan.num_pages,
        extrapolated=virtual.most_rows > plan.costs.layer.rows[-1] or _is_longer(job, plan),
        events=virtual.clock.num_events,
        events_per_s=virtual.clock.num_events / real_s,
    )
