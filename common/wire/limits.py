"""How much a peer may send, and how long a link may wait."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class WireLimits:
    """The bounds of one process's wire. What exceeds one is refused before it is unpacked."""

    max_envelope_bytes: int = 1 << 20
    """Bytes of a message's first frame."""
    max_frames: int = 32
    """Frames of a message, the envelope included."""
    max_message_bytes: int = 1 << 30
    """Bytes of all frames of a message, and of the largest tensor."""
    max_items: int = 1 << 16
    """Items of one array of the envelope."""
    max_text_bytes: int = 1 << 16
    """Bytes of one string of the envelope, in UTF-8."""
    max_queued: int = 2048
    """Messages that wait on a link, before its handshake and again behind it. One more loses the
    link, so it must exceed twice what the router keeps in flight times the fan-out."""
    connect_timeout_s: float = 10.0
    """Seconds until a target that does not answer counts as lost."""
    heartbeat_s: float = 2.0
    """Seconds between ZeroMQ's own heartbeats; five missed in a row lose the link."""
