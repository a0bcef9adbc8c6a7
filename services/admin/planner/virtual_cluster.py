"""A cluster in virtual time: the router's and the KV manager's own states, and virtual workers.

What is admitted, where it lives, what a microbatch is made of and how many travel is decided by the
very code that decides it in a cluster; only the workers are simulated.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from common.ids import ROUTER_ID, Endpoint, Epoch, Term, WorkerId
from common.messages import ForwardMicrobatch, Hop, Message, Register, Role, StageTimes, WorkerReady
from common.policy.ordering import ATTENTION, Depth, Order, deepest_first
from common.policy.profile import RouterTimes
from common.runtime.counters import Measured
from common.runtime.effects import CancelTimer, Send, SetTimer, State, TimerFired
from common.runtime.fence import NO_EPOCH
from common.runtime.member import Patience
from services.admin.planner.virtual_clock import VirtualClock
from services.admin.planner.virtual_job import VirtualJob
from services.admin.planner.virtual_stations import Core, Engine, Port
from services.admin.planner.virtual_workers import Costs, Place, VirtualWorkers
from services.kv_manager.state import KvManagerState
from services.router.lines import LineFailed, LineFinished
from services.router.membership import ClusterShape
from services.router.state import RouterState

_NEVER_S = 1e12
_JOINING_S = 1e6
_KV_MANAGER = WorkerId("kv-manager")
_ROUTER = Hop(worker_id=ROUTER_ID, endpoint=Endpoint("virtual://router"), epoch=NO_EPOCH)
_PATIENCE = Patience(
    register_interval_s=_NEVER_S, router_silence_s=_NEVER_S, stop_timeout_s=_NEVER_S
)
NOBODY_IS_LOST = {
    "heartbeat_s": _NEVER_S,
    "lease_s": 2 * _NEVER_S,
    "kv_patience_s": _NEVER_S,
}
"""Settings of the router: nobody has to be heard of here."""


NO_ROUTER = RouterTimes(microbatch_s=0.0, entry_s=0.0)


def layer_worker(index: int) -> WorkerId:
    """Name a layer worker by its range."""
    return WorkerId(f"layer-worker-{index}")


def attention_worker(index: int) -> WorkerId:
    """Name an attention worker."""
    return WorkerId(f"attention-worker-{index:03}")


def _own_core(worker_id: WorkerId) -> Hashable:
    return worker_id


@dataclass(frozen=True, slots=True, kw_only=True)
class VirtualPlan:
    """What a virtual cluster is made of."""

    shape: ClusterShape
    costs: Costs
    num_pages: int
    """Of each attention worker."""
    bytes_per_s: tuple[float, float]
    """Of each machine's connection, by tier."""
    max_context: int | None = None
    """The longest that attention was measured with; None if it was not measured."""
    router: RouterTimes = NO_ROUTER
    """Of the router's core."""
    order: Order = deepest_first
    jitter: float = 0.0
    """Deviation of the logarithm of each duration."""
    seed: int = 0
    core_of: Callable[[WorkerId], Hashable] = _own_core
    """Where a process computes; those with equal cores share one."""


@dataclass(slots=True)
class _Actor:
    """A state whose effects are carried out in virtual time."""

    clock: VirtualClock
    state: State
    send: Callable[[Hop, Message], None]
    perform: Callable[[Any], None]
    timers: dict[Hashable, float] = field(default_factory=dict)

    def start(self) -> None:
        self._carry_out(self.state.start(self.clock.now))

    def tell(self, event: Any) -> None:
        self._carry_out(self.state.handle(event, self.clock.now))

    def _carry_out(self, effects: Sequence[Any]) -> None:
        for effect in effects:
            match effect:
                case Send(to=to, message=message):
                    self.send(to, message)
                case SetTimer(key=key, at_s=at_s):
                    self.timers[key] = at_s
                    self.clock.call_at(at_s, self._fire, key, at_s)
                case CancelTimer(key=key):
                    self.timers.pop(key, None)
                case _:
                    self.perform(effect)

    def _fire(self, key: Hashable, at_s: float) -> None:
        if self.timers.get(key) == at_s:
            del self.timers[key]
            self.tell(TimerFired(key))


class VirtualCluster:
    """A router, a KV manager and workers, ready for a job.

    Attributes:
        clock: Has the time.
        engines: Of every process, by its name.
        scheduler: The router's, to be looked at.
    """

    def __init__(self, plan: VirtualPlan, router: RouterState) -> None:
        """Let everybody join.

        Args:
            plan: What the cluster is made of.
            router: A new state, with `NOBODY_IS_LOST`.
        """
        self.clock = VirtualClock()
        self.engines: dict[WorkerId, Engine] = {}
        self._plan = plan
        self._job: VirtualJob | None = None
        self._places = self._make_places()
        ranges = plan.shape.ranges
        self._workers = VirtualWorkers(self.clock, plan.costs, ranges, self._places, self._home)
        self.scheduler = router.scheduler
        self._router = _Actor(self.clock, router, self._send_from_router, self._perform)
        manager = KvManagerState(
            self._register(_KV_MANAGER, "kv_manager", None), _ROUTER, _PATIENCE, _nothing_measured
        )
        self._manager = _Actor(self.clock, manager, self._send_from_manager, lambda _: None)
        self._join()

    def _make_places(self) -> dict[WorkerId, Place]:
        plan = self._plan
        random = Random(plan.seed)

        def noise() -> float:
            return random.lognormvariate(0.0, plan.jitter) if plan.jitter else 1.0

        layer_workers = [layer_worker(index) for index in range(len(plan.shape.ranges))]
        attention_workers = [
            attention_worker(index) for index in range(plan.shape.min_attention_workers)
        ]
        everybody = (*layer_workers, *attention_workers, ROUTER_ID)
        num_users = Counter(map(plan.core_of, everybody))
        cores = {core: Core(self.clock) for core, count in num_users.items() if count > 1}
        for worker_id in everybody:
            core = cores.get(plan.core_of(worker_id))
            self.engines[worker_id] = Engine(self.clock, plan.order, noise, core)
        return {
            worker_id: Place(engine=self.engines[worker_id], port=Port(bytes_per_s))
            for workers, bytes_per_s in zip(
                (layer_workers, attention_workers), plan.bytes_per_s, strict=True
            )
            for worker_id in workers
        }

    def _register(self, worker_id: WorkerId, role: Role, ordinal: int | None) -> Register:
        return Register(
            worker_id=worker_id,
            epoch=Epoch(1),
            role=role,
            endpoint=Endpoint(f"virtual://{worker_id}"),
            host=str(self._plan.core_of(worker_id)),
            ordinal=ordinal,
            model=self._plan.shape.model if role == "layer_worker" else None,
            kernel_path="virtual",
            term=Term(1),
        )

    def _join(self) -> None:
        self._router.start()
        self._manager.start()
        self.clock.run(lambda: True, max_s=_JOINING_S)
        for index, worker_id in enumerate(self._places):
            is_layer_worker = index < len(self._plan.shape.ranges)
            role: Role = "layer_worker" if is_layer_worker else "attention_worker"
            ordinal = index if is_layer_worker else None
            ready = WorkerReady(
                worker_id=worker_id,
                epoch=Epoch(1),
                num_pages=0 if is_layer_worker else self._plan.num_pages,
                layers=self._plan.shape.ranges[index] if is_layer_worker else None,
            )
            self._router.tell(self._register(worker_id, role, ordinal))
            self._router.tell(ready)

    def run(self, job: VirtualJob, max_s: float = _NEVER_S / 2) -> bool:
        """Run a job to its end.

        Returns:
            Whether it ended; otherwise `max_s` is over, or nothing happens any more.
        """
        self._job = job
        job.submitted_s = self.clock.now
        ready_s = self.clock.now + self._plan.router.job_s
        self.clock.call_at(ready_s, self._router.tell, job.lines())
        stuck = self.clock.run(lambda: job.num_unfinished > 0, max_s)
        return not stuck

    @property
    def most_rows(self) -> int:
        """The most rows that any microbatch had."""
        return self._workers.most_rows

    # Messages

    def _send_from_router(self, to: Hop, message: Message) -> None:
        if isinstance(message, ForwardMicrobatch):
            self._workers.forward(message)
        elif to.worker_id == _KV_MANAGER:
            self._later(self._manager.tell, message)

    def _send_from_manager(self, to: Hop, message: Message) -> None:
        self._later(self._router.tell, message)

    def _later(self, tell: Callable[[Any], None], message: Message) -> None:
        self.clock.call_at(self.clock.now + self._plan.costs.slice_latency_s, tell, message)

    def _home(self, message: ForwardMicrobatch, stage_times: StageTimes) -> None:
        assert self._job is not None, "microbatches travel for a job"
        sampled = self._job.sample(message, stage_times)
        times = self._plan.router
        seconds = times.microbatch_s + times.entry_s * message.entries.shape[0]
        if not seconds:
            self._router.tell(sampled)
            return
        depth = Depth(layer=0, stage=ATTENTION, microbatch_id=message.microbatch_id)
        self.engines[ROUTER_ID].work(depth, seconds, self._router.tell, sampled)

    def _perform(self, effect: Any) -> None:
        if self._job is not None and isinstance(effect, LineFinished | LineFailed):
            self._job.end(effect, self.clock.now)


def _nothing_measured() -> Measured:
    return Measured(progress=0, busy_s=0.0)
