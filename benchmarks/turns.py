"""Two sides that take turns of some seconds while the other stands still: a paired comparison.

Whatever else changes on a machine within minutes is the same for both, and nothing has to be warmed
up, filled or emptied for a turn.
"""

import json
import os
import random
import signal
import socket
import statistics
import time
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from math import comb
from pathlib import Path
from typing import Any, Final, Self

import psutil

from common.ids import Endpoint
from services.admin.bench.workloads import Workload, make_line, make_prompts
from services.admin.client import RouterClient
from services.admin.local_cluster import ClusterPlan, LocalCluster

_SETTLE_S: Final = 0.5
_WARM_S: Final = 8.0
_NUM_LINES: Final = 3000
"""More than any comparison gets done."""
_VOCAB_SIZE: Final = 32000
_DOUBT: Final = 0.05


@dataclass(frozen=True, slots=True)
class Side:
    """What runs only in this side's turns, and whose tokens count."""

    client: RouterClient
    pids: list[int]

    def stand(self) -> None:
        """Stand still."""
        for pid in self.pids:
            os.kill(pid, signal.SIGSTOP)

    def go(self) -> None:
        """Go on."""
        for pid in self.pids:
            os.kill(pid, signal.SIGCONT)

    def rate(self, turn_s: float) -> float:
        """Run for a turn, and give tokens per second."""
        self.go()
        time.sleep(_SETTLE_S)
        begun_s, before = time.monotonic(), self.client.generated_tokens()
        time.sleep(turn_s)
        after, ended_s = self.client.generated_tokens(), time.monotonic()
        self.stand()
        return (after - before) / (ended_s - begun_s)


def take_turns(fine: Side, hindered: Side, pairs: int, turn_s: float) -> dict[str, Any]:
    """Let one side run, then the other, and so on; the fine one begins and ends.

    Returns:
        Median rates, and the share that the hindered side loses against the turns before and after
        each of its own: the median, and between which shares it lies with 95 % confidence.
    """
    with ExitStack() as stack:
        for side in (fine, hindered):
            stack.callback(side.go)  # whoever stands still does not end when told to
            side.stand()
        rates = [(fine, hindered)[turn % 2].rate(turn_s) for turn in range(2 * pairs + 1)]
    assert min(rates) > 0, "in a turn no token came home: give longer ones"
    shares = sorted(
        1 - rates[turn] / statistics.mean((rates[turn - 1], rates[turn + 1]))
        for turn in range(1, 2 * pairs, 2)
    )
    return {
        "pairs": pairs,
        "turn_s": turn_s,
        "fine": round(statistics.median(rates[::2]), 1),
        "hindered": round(statistics.median(rates[1::2]), 1),
        "lost": round(statistics.median(shares), 4),
        "lost_between": [round(each, 4) for each in _interval(shares)],
    }


def _interval(values: list[float]) -> tuple[float, float]:
    """Give the order statistics that have the median between them, whatever the distribution."""
    number = len(values)
    outside = [2 * sum(comb(number, i) for i in range(k + 1)) / 2**number for k in range(number)]
    first = max(0, sum(each <= _DOUBT for each in outside) - 1)
    return values[first], values[number - 1 - first]


class Site:
    """A cluster whose processes speak over tcp on loopback, with more to do than it gets done."""

    def __init__(self, folder: Path, work: Workload, *, keys: Path | None = None) -> None:
        """Prepare; `with` starts it, and lets it run until it is warm."""
        self._folder = folder
        self._work = work
        self._bind = _free_address()
        self._cluster = LocalCluster(
            ClusterPlan(
                layer_workers=1,
                attention_workers=1,
                router={
                    "model": work.model,
                    "max-num-seqs": work.num_requests,
                    # No larger page pools than that takes.
                    "max-model-len": work.prompt_tokens + work.output_tokens * 3 // 2,
                },
                bind=self._bind,
                shared={"key_directory": keys} if keys else {},
            )
        )

    def __enter__(self) -> Self:
        """Start the cluster and its job."""
        self._cluster.__enter__()
        self.client = self._cluster.wait_until_ready()
        self.client.create_job(self.client.upload(self._write_lines()))
        time.sleep(_WARM_S)
        return self

    def __exit__(self, *error: object) -> None:
        """Stop the cluster."""
        self.client.close()
        self._cluster.stop()

    def _write_lines(self) -> Path:
        """Write lines of different lengths, so that they do not all end at once."""
        draw = random.Random(0)
        path = self._folder / "in.jsonl"
        prompts = make_prompts(replace(self._work, num_requests=_NUM_LINES), _VOCAB_SIZE, seed=0)
        usual = self._work.output_tokens
        with path.open("w", encoding="utf-8") as file:
            for number, prompt in enumerate(prompts):
                work = replace(self._work, output_tokens=draw.randint(usual // 2, usual * 3 // 2))
                file.write(json.dumps(make_line(number, work, prompt)) + "\n")
        return path

    def side(self) -> Side:
        """Give all of its processes as one side."""
        return Side(self.client, list(_family(self._cluster.processes().values())))

    def inboxes(self) -> list[str]:
        """Give the addresses of the router and its workers."""
        workers = self.client.status()["workers"]
        return [self._bind, *(worker["endpoint"] for worker in workers)]


def _family(pids: Iterable[int]) -> Iterable[int]:
    for pid in pids:
        yield pid
        yield from (each.pid for each in psutil.Process(pid).children(recursive=True))


def _free_address() -> Endpoint:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return Endpoint(f"tcp://127.0.0.1:{taken.getsockname()[1]}")
