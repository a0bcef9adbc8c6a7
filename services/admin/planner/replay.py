"""What simulation makes of a job that was watched on real services, and what it does not explain."""

from dataclasses import dataclass
from pathlib import Path
from typing import cast

from common.ids import WorkerId
from common.model_spec import ModelSpec
from common.policy.ordering import deepest_first
from common.policy.profile import AttentionTimes, LayerTimes
from services.admin.planner.cluster_file import ClusterFile, Tier
from services.admin.planner.hardware import KvDtype, Links
from services.admin.planner.lengths import Lengths
from services.admin.planner.measure_services import (
    ALONE,
    ATTENTION_WORKER,
    FEW,
    IN_FLIGHT,
    LAYER_WORKER,
    MANY,
    PROMPT_TOKENS,
    ServiceTimes,
)
from services.admin.planner.simulation import make_virtual
from services.admin.planner.virtual_cluster import VirtualCluster, attention_worker, layer_worker
from services.admin.planner.virtual_job import VirtualJob

LAYER_FILE, ATTENTION_FILE, ROUTER_FILE = (
    "layer-worker.json",
    "attention-worker.json",
    "router.json",
)
_NO_BOUND_GBPS = 1e6
_LONGEST_S, _NUM_HALVINGS = 0.002, 8
"""Of the latency that is searched for."""


@dataclass(frozen=True, slots=True)
class Replay:
    """The watched cluster, virtually, with the profiles that a folder has by now."""

    directory: Path
    spec: ModelSpec
    folder: Path
    dtypes: tuple[str, str]
    """Of weights, and of keys and values."""
    times: ServiceTimes
    pin: bool

    def slowdowns(self) -> tuple[float, float]:
        """Give what the engines of both tiers took at work, as a multiple of what profiles say.

        The tiers of one machine share caches and memory, and messages interrupt the engines. The
        profiles must be without messages for this.
        """
        few, many = (self._run(count, IN_FLIGHT)[0] for count in (FEW, MANY))
        watched = self.times.few, self.times.many

        def slowdown(name: str, worker: WorkerId) -> float:
            took_s = sum(job.engine_s(name) for job in watched)
            return took_s / sum(virtual.engines[worker].busy_s for virtual in (few, many))

        return (
            slowdown(LAYER_WORKER, layer_worker(0)),
            slowdown(ATTENTION_WORKER, attention_worker(0)),
        )

    def latency(self) -> float:
        """Find how long a message is under way, so that one microbatch takes as long as it did."""
        job = self.times.alone
        shortest_s, longest_s = 0.0, _LONGEST_S
        for _ in range(_NUM_HALVINGS):
            middle_s = (shortest_s + longest_s) / 2
            if self.seconds(middle_s) < job.wall_s:
                shortest_s = middle_s
            else:
                longest_s = middle_s
        return shortest_s

    def seconds(self, latency_s: float) -> float:
        """Give how long the job with one microbatch takes if each message is so long under way."""
        _, job = self._run(ALONE, 1, latency_s)
        return job.ended_s - job.submitted_s

    def _run(
        self, num_requests: int, in_flight: int, latency_s: float = 0.0
    ) -> tuple[VirtualCluster, VirtualJob]:
        num_tokens = self.times.alone.generated_tokens // ALONE
        cluster = ClusterFile(
            model=str(self.directory),
            tier1=Tier(device=str(self.folder / LAYER_FILE), nodes=1),
            tier2=Tier(device=str(self.folder / ATTENTION_FILE), nodes=1),
            network=Links(bandwidth_gbps=_NO_BOUND_GBPS, rtt_ms=2000 * latency_s),
            kv_dtype=cast("KvDtype", self.dtypes[1]),
            router={"in_flight": in_flight, "max_num_seqs": MANY, "dtype": self.dtypes[0]},
            router_profile=self.folder / ROUTER_FILE,
        )
        virtual, _ = make_virtual(cluster, self.directory, deepest_first, core_of=self._core)
        job = VirtualJob([Lengths(PROMPT_TOKENS, num_tokens)] * num_requests)
        virtual.run(job)
        return virtual, job

    def _core(self, worker_id: WorkerId) -> str:
        """Let all but the layer worker share a core if they did."""
        return "other" if self.pin and worker_id != layer_worker(0) else worker_id


def slower_layer(times: LayerTimes, factor: float) -> LayerTimes:
    """Multiply all seconds of a layer."""
    columns = ("pre_s", "post_s", "classify_s")
    return times.model_copy(
        update={name: tuple(factor * each for each in getattr(times, name)) for name in columns}
    )


def slower_attention(times: AttentionTimes, factor: float) -> AttentionTimes:
    """Multiply all seconds of attention."""
    seconds = ("overhead_s", "entry_s", "row_s")
    rates = ("kv_bytes_per_s", "flops_per_s")
    return times.model_copy(
        update={name: factor * getattr(times, name) for name in seconds}
        | {name: getattr(times, name) / factor for name in rates}
    )
