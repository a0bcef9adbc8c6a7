"""What the KV manager can be told: only what every service can."""

from typing import ClassVar

from common.config import ServiceSettings


class KvManagerSettings(ServiceSettings):
    """The KV manager's settings."""

    section: ClassVar[str] = "kv_manager"
