"""Tells how far the loading of weights is, in the log."""

from collections.abc import Callable
from time import monotonic
from typing import Final

from common.log import get_logger

_INTERVAL_S: Final = 2.0
"""Seconds between two lines."""

log = get_logger()


class LoadProgress:
    """Counts the bytes of a range that were read."""

    def __init__(self, total_bytes: int, clock: Callable[[], float] = monotonic) -> None:
        """Begin to count."""
        self._clock = clock
        self._total_bytes = total_bytes
        self._loaded_bytes = 0
        self._started_s = self._told_s = self._clock()

    def add(self, size_bytes: int) -> None:
        """Count a tensor, and tell about it if nothing was told for a while."""
        self._loaded_bytes += size_bytes
        if self._clock() - self._told_s > _INTERVAL_S:
            self._told_s = self._clock()
            self._tell("loading weights")

    def end(self) -> None:
        """Tell that all is there."""
        self._tell("weights loaded")

    def _tell(self, event: str) -> None:
        seconds = max(self._clock() - self._started_s, 1e-9)
        log.info(
            event,
            loaded_bytes=self._loaded_bytes,
            total_bytes=self._total_bytes,
            bytes_per_s=round(self._loaded_bytes / seconds),
        )
