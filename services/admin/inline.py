"""A whole cluster in one process and one thread: real states, real engines, virtual time.

For what must be exact and repeatable: a reference to compare a cluster's tokens with, and tests
that script every fault. Nothing overlaps here, so it is no way to be fast.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from typing import Any, Literal, Self

from common.errors import GlinthawkError
from common.ids import ROUTER_ID, Endpoint, Epoch, JobId, Term, WorkerId
from common.messages import Hop, Register
from common.model_spec import read_model_spec, resolve_model
from common.runtime.counters import Counters
from common.runtime.effects import State, Stop
from common.runtime.fence import NO_EPOCH, RouterFence, WorkerFence
from common.runtime.mailbox import Mailbox
from common.runtime.member import EXIT_GIVEN_UP, EXIT_REFUSED, Patience
from common.runtime.worker import Kind, MakeState
from services.admin.inline_bus import WORK_S, InlineBus, InlineCarrier, InlineProcess
from services.attention_worker.compute import Compute
from services.attention_worker.config import AttentionWorkerSettings
from services.attention_worker.machine import find_machine
from services.attention_worker.state import AttentionWorkerState
from services.kv_manager.state import KvManagerState
from services.layer_worker.device import open_device
from services.layer_worker.engine import LayerEngine
from services.layer_worker.native_row_math import kernel_path
from services.layer_worker.state import LayerWorkerState
from services.router.config import RouterSettings
from services.router.lines import ChoicePrefix, LineOutcome, LinesReady, ParsedLine, PrefixGrown
from services.router.overview import counts
from services.router.service import cluster_shape, router_state
from services.router.state import RouterState
from services.router.text.tokens import Tokenizer

KV_MANAGER = WorkerId("kv-manager")

MAX_QUIET_S = 1000.0
"""Virtual seconds without a microbatch coming home after which none ever will; longer than any
deadline of a microbatch."""

RESTART_S = 0.5
"""Virtual seconds until a worker that the router has sent away is started again."""

_HOST = "inline"
_PATIENCE = Patience(register_interval_s=1.0, router_silence_s=3.0, stop_timeout_s=10.0)
_ROUTER = Hop(worker_id=ROUTER_ID, endpoint=Endpoint("inline://router"), epoch=NO_EPOCH)


def layer_worker(index: int) -> WorkerId:
    """Name a layer worker by its range."""
    return WorkerId(f"layer-worker-{index}")


def attention_worker(index: int) -> WorkerId:
    """Name an attention worker."""
    return WorkerId(f"attention-worker-{index}")


Engine = Callable[[Any], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class InlineEngines:
    """What the workers of a cluster compute with."""

    make_layer: Callable[[], Engine]
    layer_path: str
    make_attention: Callable[[], Engine]
    attention_path: str
    seconds: Callable[[Any], float] = lambda _: WORK_S
    """Virtual seconds that a piece of work took, given its result."""

    @classmethod
    def real(
        cls,
        settings: RouterSettings,
        *,
        kv_memory: int | Literal["auto"],
        threads: int | None,
        kernel: Literal["auto", "torch", "gather"] = "auto",
        device: str = "cpu",
    ) -> Self:
        """Compute as real workers do.

        Args:
            settings: The router's.
            kv_memory: Bytes of each attention worker's page pool.
            threads: Of each attention engine; by default one per core.
            kernel: How attention workers compute.
            device: What both kinds of workers compute on, in torch's words.
        """
        directory = resolve_model(settings.model)
        spec = read_model_spec(directory)
        opened = open_device(device, None)
        attention = AttentionWorkerSettings(
            kv_memory=kv_memory, threads=threads, kernel=kernel, device=device
        )
        machine = find_machine(attention)
        return cls(
            make_layer=lambda: LayerEngine(directory, spec, opened).compute,
            layer_path=kernel_path(opened.place),
            make_attention=lambda: Compute(attention, machine),
            attention_path=machine.kernel_path,
        )


@dataclass(frozen=True, slots=True)
class _WorkerPlan:
    """What a worker is, in each of its lives."""

    kind: Kind
    make_state: MakeState
    make_engine: Callable[[], Engine | None]


class InlineCluster:
    """A router, a KV manager and workers of both tiers; they join when they are told lines.

    Attributes:
        bus: Carries all messages, and has the time.
        hops: Where each process is, in its present life.
        term: Of the router.
    """

    def __init__(
        self,
        settings: RouterSettings,
        *,
        kv_memory: int | Literal["auto"] = "auto",
        threads: int | None = None,
        engines: InlineEngines | None = None,
    ) -> None:
        """Start all processes; weights are loaded by the first `generate`.

        Args:
            settings: The router's; they say how many workers of each tier there are.
            kv_memory: Bytes of each attention worker's page pool.
            threads: Of each attention engine; by default one per core.
            engines: In place of the real ones.

        Raises:
            GlinthawkError: The checkpoint cannot be served, or a setting does not fit it.
        """
        if settings.in_flight is None:  # time is virtual, so there is nothing to set it by
            settings = settings.model_copy(update={"in_flight": settings.layer_workers})
        directory = resolve_model(settings.model)
        spec = read_model_spec(directory)
        shape = cluster_shape(settings, spec, directory)
        self._engines = engines or InlineEngines.real(
            settings, kv_memory=kv_memory, threads=threads
        )
        self._model = shape.model
        self.bus = InlineBus()
        self.hops = {ROUTER_ID: _ROUTER}
        self.term = Term(0)
        self._epochs = count(1)
        self._terms = count(1)
        self._settings = settings
        self._shape = shape
        self._tokenizer = Tokenizer(directory)
        self._unfinished: dict[tuple[JobId, int], ParsedLine] = {}
        """With the prefixes that a job store would have."""
        self._outcomes: dict[tuple[JobId, int], LineOutcome] = {}
        self._plans = {
            KV_MANAGER: _WorkerPlan(Kind(role="kv_manager"), KvManagerState, lambda: None)
        }
        self._processes: dict[WorkerId, InlineProcess] = {}
        self.launch(ROUTER_ID)
        self.launch(KV_MANAGER)
        for index in range(settings.layer_workers):
            self.add_layer_worker(index)
        for index in range(settings.attention_workers):
            self.add_attention_worker(index)

    def add_layer_worker(self, index: int) -> None:
        """Let another layer worker join, at once or while lines run."""
        kind = Kind(role="layer_worker", model=self._model, kernel_path=self._engines.layer_path)
        plan = _WorkerPlan(kind, LayerWorkerState, self._engines.make_layer)
        self._plans[layer_worker(index)] = plan
        self.launch(layer_worker(index))

    def add_attention_worker(self, index: int, engines: InlineEngines | None = None) -> None:
        """Let another attention worker join, at once or while lines run.

        Args:
            index: In its name.
            engines: In place of those of the others.
        """
        engines = engines or self._engines
        kind = Kind(role="attention_worker", kernel_path=engines.attention_path)
        plan = _WorkerPlan(kind, AttentionWorkerState, engines.make_attention)
        self._plans[attention_worker(index)] = plan
        self.launch(attention_worker(index))

    def launch(self, worker_id: WorkerId) -> None:
        """Let a process begin a new life, at its old address; it must not be alive."""
        if worker_id == ROUTER_ID:
            self._launch_router()
        else:
            self._launch_worker(worker_id)

    def _launch_router(self) -> None:
        self.term = term = Term(next(self._terms))
        self._state = router_state(self._settings, self._shape, term, self._tokenizer)
        self._processes[ROUTER_ID] = InlineProcess(
            self.bus.clock,
            Mailbox(InlineCarrier(self.bus, _ROUTER), RouterFence(term), Counters()),
            self._state,
            perform=self._perform,
        )
        self._processes[ROUTER_ID].start()
        self._processes[ROUTER_ID].tell(LinesReady(lines=tuple(self._unfinished.values())))

    def _launch_worker(self, worker_id: WorkerId) -> None:
        plan = self._plans[worker_id]
        here = Hop(
            worker_id=worker_id,
            endpoint=Endpoint(f"inline://{worker_id}"),
            epoch=Epoch(next(self._epochs)),
        )
        mailbox = Mailbox(InlineCarrier(self.bus, here), WorkerFence(here.epoch), Counters())
        register = Register(
            worker_id=worker_id,
            epoch=here.epoch,
            role=plan.kind.role,
            endpoint=here.endpoint,
            host=_HOST,
            ordinal=None,
            model=plan.kind.model,
            kernel_path=plan.kind.kernel_path,
            term=Term(0),
        )
        process = InlineProcess(
            self.bus.clock,
            mailbox,
            plan.make_state(register, _ROUTER, _PATIENCE, mailbox.counters.measured),
            compute=plan.make_engine(),
            seconds=self._engines.seconds,
        )
        process.ended = partial(self._ended, worker_id)
        self.hops[worker_id] = here
        self._processes[worker_id] = process
        process.start()

    def _ended(self, worker_id: WorkerId, stop: Stop) -> None:
        """Do as a supervisor does: start again what the router has sent away."""
        if stop.exit_code in (EXIT_REFUSED, EXIT_GIVEN_UP):
            again_s = self.bus.clock.now() + RESTART_S
            self.bus.clock.call_at(again_s, partial(self.launch, worker_id))
        elif stop.exit_code:
            raise GlinthawkError(stop.reason)

    def process(self, worker_id: WorkerId) -> InlineProcess:
        """Give a living process, to be frozen, asked to stop, or looked at."""
        return self._processes[worker_id]

    def kill(self, worker_id: WorkerId) -> None:
        """End a process at once; whoever had a link to it finds that link lost."""
        self._processes.pop(worker_id).kill()

    def tell(self, event: Any) -> None:
        """Tell the router something, as its HTTP API does."""
        self._processes[ROUTER_ID].tell(event)

    def generate(self, lines: Sequence[ParsedLine]) -> list[LineOutcome]:
        """Run lines to their end, and give what came of each.

        Raises:
            GlinthawkError: They do not end, or a worker cannot do what it is for.
        """
        self._unfinished |= {(line.job_id, line.number): line for line in lines}
        self._processes[ROUTER_ID].tell(LinesReady(lines=tuple(lines)))
        num_home, give_up_s = -1, 0.0
        while self._unfinished:
            if self._state.scheduler.totals.microbatches != num_home:
                num_home = self._state.scheduler.totals.microbatches
                give_up_s = self.bus.clock.now() + MAX_QUIET_S
            if self.bus.clock.now() > give_up_s:
                message = f"{len(self._unfinished)} lines do not end"
                raise GlinthawkError(message)
            self.bus.clock.step()
        return [self._outcomes.pop((line.job_id, line.number)) for line in lines]

    @property
    def router(self) -> RouterState:
        """What the router knows."""
        return self._state

    def states(self) -> list[State]:
        """List what the living processes know, to be asserted about."""
        return [each.state for each in self._processes.values()]

    def status(self) -> dict[str, Any]:
        """Say what the workers did so far, as a router's status does."""
        living = [worker_id for worker_id in self._plans if worker_id in self._processes]
        workers = [self._worker(worker_id) for worker_id in living]
        return {"workers": workers, **counts(self._state.scheduler)}

    def _worker(self, worker_id: WorkerId) -> dict[str, Any]:
        kind, measured = self._plans[worker_id].kind, self._processes[worker_id].counters.measured()
        return {
            "worker_id": worker_id,
            "epoch": NO_EPOCH,
            "role": kind.role,
            "kernel_path": kind.kernel_path,
            "busy_s": measured.busy_s,
            "links": {link.peer: link.sent_bytes for link in measured.links},
        }

    def _perform(self, news: LineOutcome | PrefixGrown) -> None:
        if isinstance(news, PrefixGrown):
            self._keep(news)
            return
        line = (news.line.job_id, news.line.number)
        assert line in self._unfinished, f"line {line} ended twice"
        del self._unfinished[line]
        self._outcomes[line] = news

    def _keep(self, grown: PrefixGrown) -> None:
        line = self._unfinished[grown.job_id, grown.number]
        prefixes = {prefix.choice: prefix for prefix in line.prefixes}
        prefix = prefixes.get(grown.choice) or ChoicePrefix(choice=grown.choice, token_ids=())
        assert len(prefix.token_ids) == grown.start, "a prefix has a gap"
        prefixes[grown.choice] = prefix.extended(grown.token_ids, grown.logprobs)
        self._unfinished[grown.job_id, grown.number] = replace(
            line, prefixes=tuple(prefixes.values())
        )
