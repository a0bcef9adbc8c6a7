"""The layer worker as a process: its state, the loop around it, and the engine beside it."""

from common.checkpoint_header import weights_fingerprint
from common.model_spec import read_model_spec, resolve_model
from common.runtime.loop import ServiceLoop
from common.runtime.process import Identity
from common.runtime.worker import Kind, build_worker
from services.layer_worker.config import LayerWorkerSettings
from services.layer_worker.state import LayerWorkerState


def build(settings: LayerWorkerSettings, identity: Identity) -> ServiceLoop:
    """Put the service together; nothing is opened yet.

    Raises:
        ModelRefused: The checkpoint cannot be served.
        SettingsError: There is no such device.
    """
    # Torch must find the thread counts in the environment, so it is loaded only now.
    from services.layer_worker.device import open_device
    from services.layer_worker.engine import LayerEngine

    directory = resolve_model(settings.model)
    spec = read_model_spec(directory)
    device = open_device(settings.device, settings.threads)
    engine = LayerEngine(directory, spec, device)
    kind = Kind(
        role="layer_worker",
        model=f"{spec.fingerprint()}-{weights_fingerprint(directory)}",
        kernel_path=f"{device.type}-torch",
    )
    return build_worker(settings, identity, kind, LayerWorkerState, engine.compute)
