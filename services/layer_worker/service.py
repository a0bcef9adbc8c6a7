"""The layer worker as a process: its state, the loop around it, and the engine beside it."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from common.checkpoint_header import model_fingerprint
from common.model_spec import ModelSpec, read_model_spec, resolve_model
from common.runtime.emulation import emulation
from common.runtime.loop import ServiceLoop
from common.runtime.process import Identity
from common.runtime.worker import Kind, build_worker
from services.layer_worker.config import LayerWorkerSettings
from services.layer_worker.emulated_engine import EmulatedLayerEngine
from services.layer_worker.metrics import layer_worker_readings
from services.layer_worker.state import LayerWorkerState


class _Engine(NamedTuple):
    compute: Callable[[Any], Any]
    """Does one piece of work, off the loop."""
    kernel_path: str
    max_launched: int


def build(settings: LayerWorkerSettings, identity: Identity) -> ServiceLoop:
    """Put the service together; nothing is opened yet.

    Raises:
        ModelRefused: The checkpoint cannot be served.
        SettingsError: There is no such device, or no profile to emulate one.
    """
    directory = resolve_model(settings.model)
    spec = read_model_spec(directory)
    emulated = settings.compute == "emulated"
    engine = (_emulated if emulated else _real)(settings, directory, spec)
    kind = Kind(
        role="layer_worker",
        model=model_fingerprint(directory, spec, emulated=emulated),
        kernel_path=engine.kernel_path,
        readings=layer_worker_readings,
    )
    make_state = partial(LayerWorkerState, max_computing=engine.max_launched)
    return build_worker(settings, identity, kind, make_state, engine.compute)


def _emulated(settings: LayerWorkerSettings, _: Path, spec: ModelSpec) -> _Engine:
    return _Engine(EmulatedLayerEngine(spec, *emulation(settings)).compute, "emulated", 1)


def _real(settings: LayerWorkerSettings, directory: Path, spec: ModelSpec) -> _Engine:
    # Torch must find the thread counts in the environment, so it is loaded only now.
    from services.layer_worker.device import open_device
    from services.layer_worker.engine import LayerEngine
    from services.layer_worker.native_row_math import kernel_path

    device = open_device(settings.device, settings.threads)
    engine = LayerEngine(directory, spec, device)
    compute = engine.launch if device.max_launched > 1 else engine.compute
    return _Engine(compute, kernel_path(device.place), device.max_launched)
