"""The KV manager as a process: its state, and the loop around it. It has no engine."""

from common.runtime.loop import ServiceLoop
from common.runtime.process import Identity
from common.runtime.worker import Kind, build_worker
from services.kv_manager.config import KvManagerSettings
from services.kv_manager.state import KvManagerState


def build(settings: KvManagerSettings, identity: Identity) -> ServiceLoop:
    """Put the service together; nothing is opened yet."""
    return build_worker(settings, identity, Kind(role="kv_manager"), KvManagerState)
