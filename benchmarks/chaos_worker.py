"""The loss of one attention worker of three, as clients feel it that stream all the time."""

import asyncio
import json
import signal
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, Final

import psutil

from benchmarks.callers import Stream, ask
from services.admin.client import RouterClient
from services.admin.local_cluster import ClusterPlan, LocalCluster

_VICTIM: Final = "attention-worker-1"
_CLIENTS: Final = 36
_OUTPUT_TOKENS: Final = 400
_WARM_S, _BEFORE_S, _AFTER_S = 5.0, 6.0, 14.0
_RECOVERY_S: Final = 10.0
_RECOVERED_SHARE: Final = 0.6
_WINDOW_S: Final = 2.0


def lose_a_worker(plan: ClusterPlan, what: signal.Signals) -> dict[str, Any]:
    """Let clients stream, end one worker of three for good, and see how they go on.

    Returns:
        Seconds until the router has given the worker up; of the streams that were under way the
        longest wait for a token, and the longest of the two thirds that waited least, since a third
        lived on the worker; tokens/s before, and when they were back at 60 % of it.
    """
    with LocalCluster(plan) as cluster, closing(cluster.wait_until_ready()) as client:
        victim = psutil.Process(cluster.processes()[_VICTIM])
        begun = datetime.now(UTC)
        begun_s = time.monotonic()
        lost_s, streams = asyncio.run(_stream_on(client, victim, what))
        victim.send_signal(signal.SIGKILL)
        given_up = _given_up_at(cluster.directory / "router.log")
    lost = begun + timedelta(seconds=lost_s - begun_s)
    told_s = sorted(at_s for stream in streams for at_s in stream.told_s)
    before = _rate(told_s, lost_s - _BEFORE_S, lost_s)
    waits = sorted(_longest_wait(stream, lost_s) for stream in streams if _is_hit(stream, lost_s))
    usual = [b - a for each in streams for a, b in pairwise(each.told_s) if b < lost_s]
    return {
        "signal": what.name,
        "detected_s": None if given_up is None else round((given_up - lost).total_seconds(), 3),
        "streams": len(waits),
        "usual_wait_s": round(median(usual), 3),
        "longest_usual_wait_s": round(max(usual), 3),
        "longest_wait_s": round(waits[-1], 2),
        "longest_wait_of_two_thirds_s": round(waits[len(waits) * 2 // 3 - 1], 2),
        "tokens_per_s_before": round(before),
        "recovered_s": _recovered_s(told_s, lost_s, _RECOVERED_SHARE * before),
        "share_after_10_s": round(
            _rate(told_s, lost_s + _RECOVERY_S, lost_s + _AFTER_S) / before, 2
        ),
    }


async def _stream_on(
    client: RouterClient, victim: psutil.Process, what: signal.Signals
) -> tuple[float, list[Stream]]:
    streams: list[Stream] = []
    async with asyncio.TaskGroup() as tasks:
        asking = [tasks.create_task(_ask_on(client.url, each, streams)) for each in range(_CLIENTS)]
        await asyncio.sleep(_WARM_S + _BEFORE_S)
        lost_s = time.monotonic()
        victim.send_signal(what)
        await asyncio.sleep(_AFTER_S)
        for each in asking:
            each.cancel()
    return lost_s, streams


async def _ask_on(url: str, number: int, streams: list[Stream]) -> None:
    """Stream one answer after the other."""
    body = {"max_tokens": _OUTPUT_TOKENS, "temperature": 0, "ignore_eos": True, "stream": True}
    while True:
        prompt = f"<s><|user|>copy: heron{number}x{len(streams)}<|assistant|>"
        stream = Stream(asked_s=time.monotonic())
        streams.append(stream)
        await ask(url, {**body, "prompt": prompt}, stream)


def _given_up_at(log: Path) -> datetime | None:
    """Read when the router gave the victim up."""
    lines = (json.loads(line) for line in log.read_text().splitlines() if line.startswith("{"))
    lost = (each for each in lines if each["event"] == "worker lost")
    times = (each["timestamp"] for each in lost if each["worker_id"] == _VICTIM)
    return next(map(datetime.fromisoformat, times), None)


def _is_hit(stream: Stream, lost_s: float) -> bool:
    """Say whether a stream was under way, and went on."""
    return bool(stream.told_s) and stream.told_s[0] < lost_s < stream.told_s[-1]


def _longest_wait(stream: Stream, lost_s: float) -> float:
    return max(later - earlier for earlier, later in pairwise(stream.told_s) if later > lost_s)


def _rate(told_s: list[float], start_s: float, stop_s: float) -> float:
    return sum(start_s <= at_s < stop_s for at_s in told_s) / (stop_s - start_s)


def _recovered_s(told_s: list[float], lost_s: float, wanted: float) -> float | None:
    """Give the time from the loss until it was fast enough for good; 0 if it always was."""
    ends = [lost_s + _WINDOW_S + 0.25 * number for number in range(int(4 * _RECOVERY_S))]
    fast = [_rate(told_s, end_s - _WINDOW_S, end_s) >= wanted for end_s in ends]
    if all(fast):
        return 0.0
    last_slow = max(number for number, each in enumerate(fast) if not each)
    return None if last_slow + 1 == len(ends) else round(ends[last_slow + 1] - lost_s, 2)
