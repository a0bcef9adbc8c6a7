"""The attention worker as a process: its state, the loop around it, and the engine beside it."""

from common.runtime.loop import ServiceLoop
from common.runtime.process import Identity
from common.runtime.worker import Kind, build_worker
from services.attention_worker.config import AttentionWorkerSettings
from services.attention_worker.state import AttentionWorkerState


def build(settings: AttentionWorkerSettings, identity: Identity) -> ServiceLoop:
    """Put the service together; nothing is opened yet."""
    # Torch must find the thread counts in the environment, so it is loaded only now.
    from services.attention_worker.compute import KERNEL_PATH, Compute

    kind = Kind(role="attention_worker", kernel_path=KERNEL_PATH)
    return build_worker(settings, identity, kind, AttentionWorkerState, Compute(settings))
