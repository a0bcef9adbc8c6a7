"""Emulated time passes on average exactly; emulated tensors cost no memory."""

from dataclasses import dataclass, field

import pytest

from common.runtime.emulation import EmulatedTime, Zeros


@dataclass
class SlowSleeper:
    """A machine whose sleeps last longer than asked for."""

    now: float = 0.0
    too_long_s: float = 0.0
    asked: list[float] = field(default_factory=list)

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.asked.append(seconds)
        self.now += seconds + self.too_long_s


def test_time_is_scaled() -> None:
    sleeper = SlowSleeper()
    time = EmulatedTime(10.0, sleeper.clock, sleeper.sleep)

    assert time.spend(0.5) == 5.0
    assert sleeper.now == 5.0


def test_short_times_are_saved_up() -> None:
    sleeper = SlowSleeper()
    time = EmulatedTime(1.0, sleeper.clock, sleeper.sleep)

    for _ in range(100):
        time.spend(0.00003)

    assert len(sleeper.asked) < 20
    assert sleeper.now == pytest.approx(0.003, abs=0.0002)


def test_sleeping_too_long_is_paid_back() -> None:
    sleeper = SlowSleeper(too_long_s=0.0001)
    time = EmulatedTime(1.0, sleeper.clock, sleeper.sleep)

    for _ in range(100):
        time.spend(0.0003)

    assert sleeper.now == pytest.approx(0.03, abs=0.0004)


def test_without_a_scale_no_time_passes() -> None:
    sleeper = SlowSleeper()

    assert EmulatedTime(0.0, sleeper.clock, sleeper.sleep).spend(1000.0) == 0.0
    assert sleeper.asked == []


def test_zeros_share_memory_that_nobody_can_write_to() -> None:
    zeros = Zeros()

    large, small = zeros.tensor("fp32", 3, 4), zeros.tensor("bf16", 2, 5)

    assert (large.shape, large.size_bytes) == ((3, 4), len(large.memory))
    assert not large.numpy().any()
    assert small.memory.obj is large.memory.obj
    assert small.memory.readonly
