"""The machine's clock and the event loop's timers agree on when a time has come."""

import asyncio
from functools import partial

import pytest
import uvloop

from common.runtime.clock import MonotonicClock


@pytest.mark.parametrize("run", [uvloop.run, asyncio.run])
def test_nobody_is_called_before_the_time(run):
    clock, early = MonotonicClock(), []

    async def wait_for_many() -> None:
        called = [asyncio.get_running_loop().create_future() for _ in range(50)]
        begun_s = clock.now()
        for number, future in enumerate(called):
            at_s = begun_s + 0.0137 + number * 0.00037
            clock.call_at(
                at_s, partial(lambda due, at: due.set_result(clock.now() - at), future, at_s)
            )
        early.extend(late for late in await asyncio.gather(*called) if late < 0)

    run(wait_for_many())

    assert early == []


def test_a_time_that_has_passed_is_now():
    clock, calls = MonotonicClock(), []

    async def look_back() -> None:
        called = asyncio.get_running_loop().create_future()
        clock.call_at(clock.now() - 1.0, lambda: called.set_result(None))
        await called
        calls.append(clock.now())

    asyncio.run(look_back())

    assert len(calls) == 1
