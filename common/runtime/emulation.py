"""What emulated engines are made of: time that passes, and tensors that hold nothing."""

import time
from collections.abc import Callable
from math import prod

from common.config import ComputeSettings
from common.messages.tensor import DTYPE_BYTES, Tensor
from common.policy.profile import Profile, read_profile

_SHORTEST_SLEEP_S = 0.0002
"""Shorter sleeps last about as long as this one, so they are saved up."""


class EmulatedTime:
    """Lets as much time pass as computing would take, on average exactly."""

    def __init__(
        self,
        scale: float,
        clock: Callable[[], float] = time.perf_counter,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Begin with nothing owed.

        Args:
            scale: What every duration is multiplied by.
            clock: Gives monotonic seconds.
            sleep: Blocks for some seconds, or for longer.
        """
        self._scale = scale
        self._clock = clock
        self._sleep = sleep
        self._owed_s = 0.0

    def spend(self, seconds: float) -> float:
        """Let a computation's time pass, now or, if it is short, together with later ones.

        Returns:
            The seconds that it takes here, scaled.
        """
        scaled_s = seconds * self._scale
        self._owed_s += scaled_s
        if self._owed_s >= _SHORTEST_SLEEP_S:
            started_s = self._clock()
            self._sleep(self._owed_s)
            self._owed_s -= self._clock() - started_s  # sleeping too long is paid back
        return scaled_s


def emulation(settings: ComputeSettings) -> tuple[Profile, EmulatedTime]:
    """Give what an emulated engine goes by.

    Raises:
        SettingsError: The profile cannot be read.
    """
    assert settings.profile, "settings without a profile were refused"
    return read_profile(settings.profile), EmulatedTime(settings.time_scale)


class Zeros:
    """Gives tensors of zeros that share one memory, which nobody can write to."""

    def __init__(self) -> None:
        self._memory = memoryview(b"")

    def tensor(self, dtype: str, *shape: int) -> Tensor:
        """Give a tensor of this dtype and shape."""
        size_bytes = prod(shape) * DTYPE_BYTES[dtype]
        if size_bytes > len(self._memory):
            self._memory = memoryview(bytes(size_bytes))
        return Tensor(dtype=dtype, shape=shape, memory=self._memory[:size_bytes])
