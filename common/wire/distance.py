"""How far away a process's peers seem to be: for trying out networks that are not there."""

from typing import Final

_BITS: Final = 8


class Distance:
    """Says when a message that leaves now has arrived, given those that left before."""

    def __init__(self, delay_s: float = 0.0, mbit_per_s: float | None = None) -> None:
        """Set the network.

        Args:
            delay_s: Of every message, one way.
            mbit_per_s: All that this process sends goes through one wire of this rate; None: at once.
        """
        self._delay_s = delay_s
        self._s_per_byte = _BITS / (mbit_per_s * 1e6) if mbit_per_s else 0.0
        self._free_s = 0.0
        """When the wire has carried what was sent so far."""

    @property
    def is_none(self) -> bool:
        """Whether peers are as near as they are."""
        return not (self._delay_s or self._s_per_byte)

    def arrival_s(self, size_bytes: int, now: float) -> float:
        """Put a message on the wire; give the time at which it arrives."""
        self._free_s = max(now, self._free_s) + size_bytes * self._s_per_byte
        return self._free_s + self._delay_s
