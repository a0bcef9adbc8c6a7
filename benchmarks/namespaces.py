"""Tokens per second with a line between the tiers, against the same line without delay.

    python -m benchmarks.namespaces --rtt-ms 25 --in-flight 6 --runs 3

Tier 1, the router and the KV manager are in one network namespace, tier 2 is in another, and every byte
between them passes a delay line, encrypted. Engines are emulated: a layer takes 14 ms for up to 64 rows,
attention nothing; activations have the size of a 300M Llama's. Measured is a while of one long job, with
the number in flight set by itself and with a fixed one. Needs root and `/dev/net/tun`.
"""

import json
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Final

import psutil
import typer

from benchmarks.delay_line import DEVICE, inside
from benchmarks.emulated import VOCAB_SIZE, attention_options, layer_options, write_model
from common.ids import Endpoint
from common.policy.profile import ModelShape
from common.wire.keys import create_keys
from services.admin.bench.workloads import Workload, make_prompts, write_batch
from services.admin.local_cluster import ClusterPlan, LocalCluster

_NEAR, _FAR = f"glinthawk-near-{os.getpid()}", f"glinthawk-far-{os.getpid()}"
_NEAR_ADDRESS, _FAR_ADDRESS = "10.98.0.1", "10.98.0.2"
_MTU: Final = 9000
_ENTRIES: Final = 64
_NUM_LAYERS: Final = 8
_NUM_REQUESTS: Final = 16 * _ENTRIES
_STAGE_S: Final = 0.007
_WARM_S: Final = 8.0
"""Until all prompts are in, before a measurement."""
_SHAPE = ModelShape(
    hidden_size=1024,
    intermediate_size=2816,
    num_heads=16,
    num_kv_heads=4,
    head_size=64,
    vocab_size=VOCAB_SIZE,
)


@dataclass(frozen=True, slots=True)
class Pause:
    """How long a job is left alone, and then watched."""

    settle_s: float
    measure_s: float


def main(
    rtt_ms: float = 25.0,
    rate_mbit: Annotated[float, typer.Option(help="Of the line, each way; 0: no limit.")] = 0.0,
    in_flight: Annotated[int, typer.Option(help="The fixed number.")] = 6,
    runs: int = 1,
    settle_s: Annotated[float, typer.Option(help="For a number that sets itself.")] = 30.0,
    measure_s: float = 10.0,
) -> None:
    """Measure with and without delay in turn, and print each run and the ratios of the medians."""
    rates: dict[tuple[bool, bool], list[float]] = {}
    with TemporaryDirectory() as name:
        folder = Path(name)
        create_keys(folder / "keys")
        write_model(folder / "model", _NUM_LAYERS, _SHAPE)
        for _ in range(runs):
            for is_delayed in (False, True):
                with line(rtt_ms if is_delayed else 0.0, rate_mbit):
                    for fixed in (None, in_flight):
                        pause = Pause(_WARM_S if fixed else settle_s, measure_s)
                        figures = _watch(_plan(folder, fixed), pause)
                        rates.setdefault((fixed is None, is_delayed), []).append(
                            figures["tokens_per_s"]
                        )
                        print(json.dumps({"fixed": fixed, **figures}), flush=True)
    for itself, word in ((True, "set by itself"), (False, "fixed")):
        ratio = statistics.median(rates[itself, True]) / statistics.median(rates[itself, False])
        print(json.dumps({"in_flight": word, "kept": round(ratio, 3), "runs": runs}))


@contextmanager
def line(rtt_ms: float, rate_mbit: float) -> Iterator[None]:
    """Make two namespaces and a line between them, and be in the first of them for a while."""
    with ExitStack() as stack:
        for namespace in (_NEAR, _FAR):
            _ip("netns", "add", namespace)
            stack.callback(_ip, "netns", "delete", namespace)
        words = [_NEAR, _FAR, "--one-way-ms", str(rtt_ms / 2), "--rate-mbit", str(rate_mbit)]
        carrier = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.delay_line", *words], stdout=subprocess.PIPE
        )
        stack.callback(carrier.wait)
        stack.callback(carrier.terminate)
        assert carrier.stdout
        assert carrier.stdout.readline(), "the delay line did not start"
        for namespace, address in ((_NEAR, _NEAR_ADDRESS), (_FAR, _FAR_ADDRESS)):
            _ip("-n", namespace, "address", "add", f"{address}/24", "dev", DEVICE)
            _ip("-n", namespace, "link", "set", DEVICE, "mtu", str(_MTU), "up")
            _ip("-n", namespace, "link", "set", "lo", "up")
        stack.enter_context(inside(_NEAR))
        yield


class SplitCluster(LocalCluster):
    """A cluster whose tiers are in different namespaces."""

    def commands(self) -> Sequence[tuple[str, list[str]]]:
        """Give every process's command; the attention workers' begin in the other namespace."""
        # Of two equal options the last one counts.
        far = ["--bind", f"tcp://{_FAR_ADDRESS}:*"]
        return [
            (name, ["ip", "netns", "exec", _FAR, *words, *far] if "attention" in name else words)
            for name, words in super().commands()
        ]


def _plan(folder: Path, fixed: int | None) -> ClusterPlan:
    return ClusterPlan(
        layer_workers=1,
        attention_workers=1,
        router={
            "model": folder / "model",
            "compute": "emulated",
            "dtype": "bf16",
            "max-num-seqs": _NUM_REQUESTS,
            "microbatch-entries": _ENTRIES,
            "in-flight": fixed,
        },
        layer=layer_options(folder, _STAGE_S, _SHAPE),
        attention=attention_options(folder),
        shared={"key-directory": folder / "keys"},
        threads=1,
        bind=Endpoint(f"tcp://{_NEAR_ADDRESS}:7400"),
    )


def _watch(plan: ClusterPlan, pause: Pause) -> dict[str, Any]:
    """Let a job run, and count its tokens and the bytes on the line for a while."""
    workload = Workload(
        model="emulated", num_requests=_NUM_REQUESTS, prompt_tokens=4, output_tokens=2000
    )
    rtt_s = _round_trip_s()
    with TemporaryDirectory() as name, SplitCluster(plan) as cluster:
        prompts = make_prompts(workload, VOCAB_SIZE, seed=0)
        client = cluster.wait_until_ready()
        client.create_job(client.upload(write_batch(Path(name) / "in.jsonl", workload, prompts)))
        time.sleep(pause.settle_s)
        limit = client.status()["in_flight"]["limit"]
        started_s, tokens, traffic = time.monotonic(), client.generated_tokens(), _traffic()
        time.sleep(pause.measure_s)
        seconds = time.monotonic() - started_s
        tokens, after = client.generated_tokens() - tokens, _traffic()
        limits = [limit, client.status()["in_flight"]["limit"]]
        client.close()
    bits = [(now - before) * 8 for before, now in zip(traffic, after, strict=True)]
    return {
        "rtt_ms": round(rtt_s * 1e3, 2),
        "tokens_per_s": round(tokens / seconds, 1),
        "in_flight": limits,
        "mbit_per_s": [round(each / seconds / 1e6, 1) for each in bits],
    }


def _round_trip_s() -> float:
    """Give the median time until a closed port on the other side says that it is closed."""
    times = []
    for _ in range(9):
        started_s = time.perf_counter()
        with suppress(ConnectionRefusedError), socket.create_connection((_FAR_ADDRESS, 9)):
            pass
        times.append(time.perf_counter() - started_s)
    return statistics.median(times)


def _traffic() -> tuple[int, int]:
    """Give the bytes that have gone to tier 2, and come from it."""
    counters = psutil.net_io_counters(pernic=True)[DEVICE]
    return counters.bytes_sent, counters.bytes_recv


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


if __name__ == "__main__":
    typer.run(main)
