"""Who is alive, as what, and in which life: the router's part of the state about workers."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from common.ids import Endpoint, Epoch, WorkerId
from common.messages import (
    AttentionRole,
    Heartbeat,
    Hop,
    LayerRole,
    LinkBytes,
    Register,
    Role,
    WorkerReady,
)


@dataclass(slots=True, kw_only=True)
class Worker:
    """One life of a worker, as the router knows it."""

    hop: Hop
    role: Role
    host: str
    kernel_path: str
    layers: LayerRole | None
    last_heard_s: float
    ready: bool = False
    num_pages: int = 0
    progress: int = 0
    busy_s: float = 0.0
    links: tuple[LinkBytes, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterShape:
    """What the cluster is to be: its model, and how the layers are cut."""

    model: str
    """Fingerprint of model spec and weights, which layer workers must have too."""
    ranges: tuple[LayerRole, ...]
    attention: AttentionRole
    min_attention_workers: int
    """The cluster is ready when so many attention workers are."""


def cut_layers(num_layers: int, num_ranges: int, dtype: str) -> tuple[LayerRole, ...]:
    """Cut the layers into ranges whose lengths differ by at most one."""
    stops = [num_layers * (index + 1) // num_ranges for index in range(num_ranges)]
    return tuple(
        LayerRole(start=start, stop=stop, first=start == 0, last=stop == num_layers, dtype=dtype)
        for start, stop in zip([0, *stops], stops, strict=False)
    )


@dataclass(slots=True)
class Members:
    """All workers that count as alive. At most one life of each, none with a lapsed lease."""

    shape: ClusterShape
    workers: dict[WorkerId, Worker] = field(default_factory=dict)

    def refusal(self, message: Register) -> str | None:
        """Say in one line why a worker cannot be a member; None if it can."""
        if message.role == "layer_worker" and message.model != self.shape.model:
            return (
                f"{message.worker_id} serves model {message.model}, the cluster serves "
                f"{self.shape.model}: start it with the router's --model"
            )
        if message.role == "kv_manager":
            rival = self.kv_manager()
            if rival is not None and rival.worker_id != message.worker_id:
                return f"the cluster has a KV manager already, {rival.worker_id}: stop one of them"
        return None

    def admit(self, message: Register, now: float) -> Worker:
        """Take a worker in, with the layer range that needs it most.

        The caller has removed an earlier life of it (`current`, `remove`).
        """
        worker = Worker(
            hop=Hop(worker_id=message.worker_id, endpoint=message.endpoint, epoch=message.epoch),
            role=message.role,
            host=message.host,
            kernel_path=message.kernel_path,
            layers=self._choose_range(message) if message.role == "layer_worker" else None,
            last_heard_s=now,
        )
        self.workers[message.worker_id] = worker
        return worker

    def _choose_range(self, message: Register) -> LayerRole:
        covered = Counter(worker.layers.start for worker in self.workers.values() if worker.layers)
        ranges = self.shape.ranges
        preferred = ranges[message.ordinal % len(ranges)] if message.ordinal is not None else None
        return min(ranges, key=lambda layers: (covered[layers.start], layers is not preferred))

    def current(self, worker_id: WorkerId, epoch: Epoch) -> Worker | None:
        """Find this life of a worker."""
        worker = self.workers.get(worker_id)
        return worker if worker is not None and worker.hop.epoch == epoch else None

    def remove(self, worker_id: WorkerId) -> None:
        """Forget a worker."""
        del self.workers[worker_id]

    def make_ready(self, message: WorkerReady) -> Worker | None:
        """Note that a worker can work; None if it is no member or was ready before."""
        worker = self.current(message.worker_id, message.epoch)
        if worker is None or worker.ready:
            return None
        worker.ready, worker.num_pages = True, message.num_pages
        return worker

    def hear(self, message: Heartbeat, now: float) -> bool:
        """Renew a worker's lease; False if it is no member."""
        worker = self.current(message.worker_id, message.epoch)
        if worker is None:
            return False
        worker.last_heard_s = now
        worker.progress, worker.busy_s = message.progress, message.busy_s
        worker.links = message.links
        return True

    def lapsed(self, now: float, lease_s: float) -> list[Worker]:
        """List the workers that were silent for longer than the lease."""
        return [w for w in self.workers.values() if now - w.last_heard_s > lease_s]

    def at(self, endpoint: Endpoint) -> Worker | None:
        """Find the worker whose inbox is there."""
        return next((w for w in self.workers.values() if w.hop.endpoint == endpoint), None)

    def ready_workers(self, role: Role) -> list[Worker]:
        """List the workers of a role that can work, by id."""
        found = [w for w in self.workers.values() if w.role == role and w.ready]
        return sorted(found, key=lambda worker: worker.hop.worker_id)

    def kv_manager(self) -> Hop | None:
        """Find the KV manager."""
        return next((w.hop for w in self.workers.values() if w.role == "kv_manager"), None)

    def pipeline(self, load: Mapping[WorkerId, int]) -> tuple[Hop, ...] | None:
        """Choose one layer worker per range, the least loaded; None while a range is uncovered."""
        ready = self.ready_workers("layer_worker")
        hops = []
        for layers in self.shape.ranges:
            fitting = [worker.hop for worker in ready if worker.layers == layers]
            if not fitting:
                return None
            hops.append(min(fitting, key=lambda hop: load.get(hop.worker_id, 0)))
        return tuple(hops)

    def missing(self) -> list[str]:
        """Say what the cluster still waits for; empty when it can serve."""
        ready = self.ready_workers("layer_worker")
        covered = [worker.layers for worker in ready]
        waits = [
            f"a layer worker for layers [{layers.start}, {layers.stop})"
            for layers in self.shape.ranges
            if layers not in covered
        ]
        lacking = self.shape.min_attention_workers - len(self.ready_workers("attention_worker"))
        if lacking > 0:
            waits.append(f"{lacking} more attention worker{'s' if lacking > 1 else ''}")
        if self.kv_manager() is None:
            waits.append("the KV manager")
        return waits

    def shares_cores(self) -> bool:
        """Say whether workers of both tiers run on one machine and so gain nothing by overlap."""
        hosts = [{worker.host for worker in self.ready_workers(role)} for role in _COMPUTING_ROLES]
        return bool(hosts[0] & hosts[1])

    def mixed_kernels(self) -> Iterable[str]:
        """List the kernel paths of the attention workers, if they differ."""
        paths = {worker.kernel_path for worker in self.ready_workers("attention_worker")}
        return sorted(paths) if len(paths) > 1 else ()


_COMPUTING_ROLES: tuple[Role, Role] = ("layer_worker", "attention_worker")
