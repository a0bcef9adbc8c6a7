"""Who is alive, as what, and in which life: the router's part of the state about workers."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from common.ids import Endpoint, Epoch, WorkerId
from common.messages import (
    AttentionRole,
    Heartbeat,
    Hop,
    LayerRole,
    LinkBytes,
    PoolCount,
    Register,
    Role,
    Route,
    WorkerReady,
)
from common.messages.member import Quantization
from services.router.blames import Blames, Link, range_links, shard_links

_COMPUTING_ROLES: tuple[Role, Role] = ("layer_worker", "attention_worker")


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
    leaving: bool = False
    """It finishes what it has and takes nothing new."""
    num_pages: int = 0
    progress: int = 0
    moved_s: float
    """When its engine was last seen to rest, or to have ended a visit."""
    waiting_for: tuple[WorkerId, ...] = ()
    busy_s: float = 0.0
    links: tuple[LinkBytes, ...] = ()
    tokens_per_s: float = 0.0
    """Tokens of a layer that it attends to in a second, in decode; 0 until it has said so."""
    pool: PoolCount | None = None
    """Its pages, as the KV manager last counted them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterShape:
    """What the cluster is to be: its model, and how the layers are cut."""

    model: str
    """Fingerprint of model spec and weights, which layer workers must have too."""
    ranges: tuple[LayerRole, ...]
    attention: AttentionRole
    min_attention_workers: int
    """The cluster first starts to work when so many attention workers are ready."""


def cut_layers(
    counts: Sequence[int], dtype: str, quantization: Quantization = "none"
) -> tuple[LayerRole, ...]:
    """Cut the layers into ranges of so many each."""
    stops = [*accumulate(counts)]
    return tuple(
        LayerRole(
            start=start,
            stop=stop,
            first=start == 0,
            last=stop == stops[-1],
            dtype=dtype,
            quantization=quantization,
        )
        for start, stop in zip([0, *stops], stops, strict=False)
    )


@dataclass(slots=True)
class Members:
    """All workers that count as alive. At most one life of each, none with a lapsed lease."""

    shape: ClusterShape
    workers: dict[WorkerId, Worker] = field(default_factory=dict)
    given_up: set[tuple[WorkerId, Epoch]] = field(default_factory=set)
    """Lives whose pages or tables were written off; they must not come back."""
    sent_away: dict[tuple[WorkerId, Epoch], str] = field(default_factory=dict)
    """Lives that are good for nothing, whatever they are registered as, and why."""
    blames: Blames = field(default_factory=Blames)
    formed: bool = False
    """The cluster was complete once; from then on one attention worker is enough to go on."""

    def refusal(self, message: Register) -> str | None:
        """Say in one line why a worker cannot be a member; None if it can."""
        if reason := self.sent_away.get((message.worker_id, message.epoch)):
            return reason
        if message.role == "layer_worker" and message.model != self.shape.model:
            return (
                f"{message.worker_id} serves model {message.model}, the cluster serves "
                f"{self.shape.model}: start it with the router's --model"
            )
        if message.role == "kv_manager":
            rivals = [name for name, worker in self.workers.items() if worker.role == message.role]
            if rivals and message.worker_id not in rivals:
                return f"the cluster has a KV manager already, {rivals[0]}: stop one of them"
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
            moved_s=now,
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

    def remove(self, worker: Worker) -> None:
        """Forget a worker; if it held pages or tables, this life of it is over for good."""
        del self.workers[worker.hop.worker_id]
        self.blames.forget(worker.hop.worker_id)
        if worker.role != "layer_worker":
            self.given_up.add((worker.hop.worker_id, worker.hop.epoch))

    def blame(self, links: Iterable[Link]) -> list[Worker]:
        """Note that a microbatch failed over links; give the workers that lose their place by it."""
        return [self.workers[name] for name in self.blames.add(links) if name in self.workers]

    def suspects(self, route: Route) -> list[Link]:
        """List the links over which a microbatch that never came home may have been lost.

        Those whose answers a layer worker still waits for, or else those between the ranges.
        """
        missed = [link for link in shard_links(route) if self._waits(*link)]
        return missed or range_links(route)

    def _waits(self, worker_id: WorkerId, peer: WorkerId) -> bool:
        worker = self.workers.get(worker_id)
        return worker is not None and peer in worker.waiting_for

    def kernel_paths(self, hops: Iterable[Hop]) -> list[str]:
        """Say how these workers compute."""
        return [self.workers[hop.worker_id].kernel_path for hop in hops]

    def reassign(self) -> Worker | None:
        """Give a spare layer worker a range that nobody covers; None if there is none of either."""
        holders: dict[LayerRole, list[Worker]] = {layers: [] for layers in self.shape.ranges}
        for worker in self.workers.values():
            if worker.layers is not None and not worker.leaving:
                holders[worker.layers].append(worker)
        gap = next((layers for layers, workers in holders.items() if not workers), None)
        spare = next((workers[-1] for workers in holders.values() if len(workers) > 1), None)
        if gap is None or spare is None:
            return None
        spare.layers, spare.ready = gap, False
        return spare

    def make_ready(self, message: WorkerReady) -> Worker | None:
        """Note that a worker can work.

        None if it is no member, was ready before, or means a role that it no longer has.
        """
        worker = self.current(message.worker_id, message.epoch)
        if worker is None or worker.ready or worker.layers != message.layers:
            return None
        worker.ready, worker.num_pages = True, message.num_pages
        return worker

    def hear(self, message: Heartbeat, now: float) -> None:
        """Renew a worker's lease, if it is a member."""
        worker = self.current(message.worker_id, message.epoch)
        if worker is not None:
            worker.last_heard_s = now
            if not (worker.ready and message.busy and message.progress == worker.progress):
                worker.moved_s = now
            worker.progress, worker.busy_s = message.progress, message.busy_s
            worker.links, worker.waiting_for = message.links, message.waiting_for
            worker.tokens_per_s = message.tokens_per_s

    def hear_all(self, now: float) -> None:
        """Renew every lease: it was the router itself that did not listen."""
        for worker in self.workers.values():
            worker.last_heard_s = worker.moved_s = now

    def lapsed(self, now: float, lease_s: float) -> list[Worker]:
        """List the workers that were silent for as long as the lease."""
        return [w for w in self.workers.values() if now >= w.last_heard_s + lease_s]

    def hung(self, now: float, allowed_s: float) -> list[Worker]:
        """List the workers whose engine was busy for longer than allowed, and ended nothing."""
        return [w for w in self.workers.values() if now - w.moved_s > allowed_s]

    def at(self, endpoint: Endpoint, epoch: Epoch) -> Worker | None:
        """Find the life of a worker whose inbox is there."""
        life = (endpoint, epoch)
        workers = self.workers.values()
        return next((w for w in workers if (w.hop.endpoint, w.hop.epoch) == life), None)

    def ready_workers(self, role: Role) -> list[Worker]:
        """List the workers of a role that take new work, by id."""
        found = [w for w in self.workers.values() if w.role == role and w.ready and not w.leaving]
        return sorted(found, key=lambda worker: worker.hop.worker_id)

    def pools(self) -> list[Worker]:
        """List the workers that hold pages, those that leave too."""
        workers = self.workers.values()
        return [each for each in workers if each.role == "attention_worker" and each.ready]

    def kv_manager(self) -> Hop | None:
        """Find the KV manager; not before it is ready, so that it knows the pools when it is asked."""
        return next((worker.hop for worker in self.ready_workers("kv_manager")), None)

    def pipeline(self, load: Mapping[WorkerId, int]) -> tuple[Hop, ...] | None:
        """Choose one layer worker per range, the least loaded; None while a range is uncovered.

        One that the range before it could not reach is taken only where there is no other.
        """
        ready = self.ready_workers("layer_worker")
        hops: list[Hop] = []
        for layers in self.shape.ranges:
            fitting = [worker.hop for worker in ready if worker.layers == layers]
            if not fitting:
                return None
            before = [hop.worker_id for hop in hops[-1:]]
            blames = {
                hop.worker_id: sum(self.blames.count((name, hop.worker_id)) for name in before)
                for hop in fitting
            }
            hops.append(
                min(fitting, key=lambda hop: (blames[hop.worker_id], load.get(hop.worker_id, 0)))
            )
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
        wanted = 1 if self.formed else self.shape.min_attention_workers
        lacking = wanted - len(self.ready_workers("attention_worker"))
        if lacking > 0:
            waits.append(f"{lacking} more attention worker{'s' if lacking > 1 else ''}")
        if self.kv_manager() is None:
            waits.append("the KV manager")
        return waits

    def shares_cores(self) -> bool:
        """Say whether workers of both tiers compute on one processor and so gain nothing by overlap."""
        hosts = [
            {w.host for w in self.ready_workers(role) if not w.kernel_path.startswith("cuda")}
            for role in _COMPUTING_ROLES
        ]
        return bool(hosts[0] & hosts[1])
