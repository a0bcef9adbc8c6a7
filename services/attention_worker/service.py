"""The attention worker as a process: its state, the loop around it, and the engine beside it."""

from dataclasses import asdict
from functools import partial

from common.log import get_logger
from common.runtime.emulation import emulation
from common.runtime.loop import ServiceLoop
from common.runtime.process import Identity
from common.runtime.worker import Kind, build_worker
from services.attention_worker.compute import Compute
from services.attention_worker.config import AttentionWorkerSettings
from services.attention_worker.emulated_engine import EmulatedCompute
from services.attention_worker.host import Host
from services.attention_worker.machine import find_machine
from services.attention_worker.metrics import attention_worker_readings
from services.attention_worker.state import AttentionWorkerState

MAX_BRIEF_S = 0.0009
"""What the loop may compute itself: of the millisecond that a callback may take, the rest is messages."""

_SLOW = "the native kernel is several times faster: with a C++ compiler, `pip install` builds it"


def build(settings: AttentionWorkerSettings, identity: Identity) -> ServiceLoop:
    """Put the service together; nothing is opened yet."""
    if settings.compute == "emulated":
        kind = _kind("emulated")
        engine = EmulatedCompute(settings, *emulation(settings))
        return build_worker(settings, identity, kind, AttentionWorkerState, engine)
    machine = find_machine(settings)
    log = get_logger()
    if machine.instruction_set == "torch":
        log.warning("attention runs in torch", hint=_SLOW)
    host = Host.read()
    nodes = host.nodes_of(machine.cpus or host.cpus)
    log.info("attention engine", **asdict(machine), numa_nodes=nodes, huge_pages=host.huge_pages)
    kind = _kind(machine.kernel_path)
    # Only the native kernels do not mind who calls them, and only where no thread is pinned.
    anywhere = machine.instruction_set not in ("torch", "gather") and not machine.cpus
    make_state = partial(AttentionWorkerState, max_brief_s=MAX_BRIEF_S if anywhere else 0.0)
    return build_worker(settings, identity, kind, make_state, Compute(settings, machine))


def _kind(kernel_path: str) -> Kind:
    return Kind(
        role="attention_worker", kernel_path=kernel_path, readings=attention_worker_readings
    )
