"""How a worker of any role is put together: its member, its inbox, its loop."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from common.config import ServiceSettings
from common.ids import ROUTER_ID, Endpoint, Term
from common.messages import Hop, Register, Role
from common.runtime.counters import Counters, Measured
from common.runtime.effects import State
from common.runtime.fence import NO_EPOCH, WorkerFence
from common.runtime.loop import ServiceLoop
from common.runtime.mailbox import Mailbox
from common.runtime.member import Patience
from common.runtime.metrics import Metrics, Reading
from common.runtime.process import Identity, advertised
from common.runtime.security import open_locksmith, reload_on_hangup
from common.runtime.trace import watch
from common.wire.addresses import demand_reachable
from common.wire.distance import Distance
from common.wire.limits import WireLimits
from common.wire.transport import Transport


class WorkerState(State, Protocol):
    """What the state of any worker is."""

    @property
    def is_ready(self) -> bool:
        """Whether the router may give it work."""
        ...


MakeState = Callable[[Register, Hop, Patience, Callable[[], Measured]], WorkerState]
"""Makes the state from what a `Member` needs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """What a worker tells the router about itself, beyond its settings."""

    role: Role
    model: str | None = None
    """Fingerprint of model spec and weights (layer workers only)."""
    kernel_path: str = "none"
    """How it computes."""
    readings: Callable[[Any], Iterable[Reading]] | None = None
    """Gives the metrics of its state, beyond those of every service."""


def build_worker(
    settings: ServiceSettings,
    identity: Identity,
    kind: Kind,
    make_state: MakeState,
    compute: Callable[[Any], Any] | None = None,
) -> ServiceLoop:
    """Put a worker together; nothing is opened yet.

    Args:
        settings: The worker's settings.
        identity: Who it is, in this life.
        kind: What it is.
        make_state: Called once the inbox has its address.
        compute: Does its work off the loop, if it has an engine.

    Raises:
        SettingsError: Its keys cannot be read, or it has none and would need them.
    """
    locksmith = open_locksmith(settings)
    demand_reachable(settings.router_endpoint, guarded=locksmith.guarded)
    counters = Counters()
    metrics = Metrics(counters)
    router = Hop(worker_id=ROUTER_ID, endpoint=settings.router_endpoint, epoch=NO_EPOCH)
    patience = Patience(
        register_interval_s=settings.register_interval_s,
        router_silence_s=settings.router_silence_s,
        stop_timeout_s=settings.stop_timeout_s,
    )

    begun: list[WorkerState] = []

    def begin(bound: Endpoint) -> State:
        register = Register(
            worker_id=identity.worker_id,
            epoch=identity.epoch,
            role=kind.role,
            endpoint=advertised(bound, settings),
            host=settings.host,
            ordinal=settings.ordinal,
            model=kind.model,
            kernel_path=kind.kernel_path,
            term=Term(0),
        )
        state = make_state(register, router, patience, counters.measured)
        if kind.readings is not None:
            metrics.add(partial(kind.readings, state))
        begun.append(state)
        return state

    transport = Transport(
        bind=settings.bind,
        worker_id=identity.worker_id,
        epoch=identity.epoch,
        limits=WireLimits(),
        locksmith=locksmith,
        distance=Distance(settings.link_delay_ms / 1000, settings.link_mbit_per_s),
    )
    watched = watch(settings, identity, transport, compute)
    mailbox = Mailbox(watched.carrier, WorkerFence(identity.epoch), counters)
    parts = (
        *watched.parts,
        *reload_on_hangup(locksmith.keyring),
        *metrics.parts(settings, lambda: bool(begun) and begun[0].is_ready),
    )
    return ServiceLoop(begin, mailbox, compute=watched.compute, parts=parts)
