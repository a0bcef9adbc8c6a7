"""What security costs a job: the lock on the links, and an enemy who rattles at it.

    python -m benchmarks.curve cost --workload A        # locked links against links in the clear
    python -m benchmarks.curve link --size-kb 256       # processor time of one message, both ends
    python -m benchmarks.curve messages --rate 1000     # hostile messages, links in the clear
    python -m benchmarks.curve connections --rate 100   # connections with unknown keys, links locked

An enemy is compared with the same enemy aimed at a port of its own: on one machine it takes processor
time in any case. Runs alternate; rates are medians.
"""

import json
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer
import zmq

from common.ids import Endpoint
from common.wire.keys import create_keys
from services.admin.bench.workloads import (
    Workload,
    choose_workload,
    find_model,
    make_prompts,
    write_batch,
)
from services.admin.client import RouterClient
from services.admin.local_cluster import ClusterPlan, LocalCluster
from services.admin.run_batch import BatchFiles, run_batch

app = typer.Typer(add_completion=False)

Pairs = Annotated[int, typer.Option(help="Of runs that are compared.")]
Letter = Annotated[str, typer.Option("--workload", help="A, B or C of `bench throughput`.")]
Requests = Annotated[int | None, typer.Option(help="The workload's own by default.")]
Tokens = Annotated[int | None, typer.Option("--output-tokens", help="Of each request.")]


@app.command()
def cost(
    workload: Letter = "A", pairs: Pairs = 3, requests: Requests = None, tokens: Tokens = None
) -> None:
    """Compare locked links over tcp with links over tcp in the clear."""
    work = _workload(workload, requests, tokens)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="gh-")))
        create_keys(folder / "keys")
        clear = stack.enter_context(Site(folder, work, locked=False))
        locked = stack.enter_context(Site(folder, work, locked=True))
        figures = _compare(clear.run, locked.run, pairs)
    print(json.dumps({"workload": workload, **figures}))


@app.command()
def link(
    size_kb: Annotated[int, typer.Option(help="Of each message.")] = 256,
    number: Annotated[int, typer.Option(help="Messages of each run.")] = 2000,
    pairs: Pairs = 5,
) -> None:
    """Compare the processor time of messages on a locked link and on one in the clear.

    Other work on the machine hardly moves processor time, as it does seconds and tokens per second.
    """
    costs = [
        (_processor_us(size_kb * 1024, number, locked=False), _processor_us(size_kb * 1024, number))
        for _ in range(pairs)
    ]
    clear, locked = (statistics.median(each) for each in zip(*costs, strict=True))
    figures = {"size_kb": size_kb, "clear_us": round(clear, 1), "locked_us": round(locked, 1)}
    ns_per_byte = round((locked - clear) / size_kb / 1.024, 3)
    print(json.dumps({**figures, "lock_ns_per_byte": ns_per_byte}))


def _processor_us(size_bytes: int, number: int, *, locked: bool = True) -> float:
    """Send messages over loopback inside this process; give its processor time for each."""
    message = bytes(size_bytes)
    with zmq.Context() as context, context.socket(zmq.PULL) as inbox:
        sender = context.socket(zmq.PUSH)
        if locked:
            inbox.curve_server = True
            sender.curve_serverkey, inbox.curve_secretkey = zmq.curve_keypair()
            sender.curve_publickey, sender.curve_secretkey = zmq.curve_keypair()
        inbox.bind("tcp://127.0.0.1:*")
        sender.connect(inbox.get_string(zmq.LAST_ENDPOINT))
        sender.send(message)  # the handshake is no part of it
        inbox.recv(copy=False)
        started_s = time.process_time()
        for _ in range(number):
            sender.send(message, copy=False)
            inbox.recv(copy=False)
        spent_s = time.process_time() - started_s
        sender.close()
    return spent_s / number * 1e6


@app.command()
def messages(
    rate: float = 1000,
    workload: Letter = "C",
    pairs: Pairs = 3,
    requests: Requests = None,
    tokens: Tokens = None,
) -> None:
    """Compare a job under hostile messages with one beside them."""
    with TemporaryDirectory(prefix="gh-") as name:
        work = _workload(workload, requests, tokens)
        with Site(Path(name), work, locked=False) as site:
            _under_attack(site, ["messages", "--rate", str(rate), *site.inboxes()], pairs)


@app.command()
def connections(
    rate: float = 100,
    workload: Letter = "C",
    pairs: Pairs = 3,
    requests: Requests = None,
    tokens: Tokens = None,
) -> None:
    """Compare a job under hostile connections with one beside them."""
    with TemporaryDirectory(prefix="gh-") as name:
        folder = Path(name)
        create_keys(folder / "keys")
        with Site(folder, _workload(workload, requests, tokens), locked=True) as site:
            words = ["connections", "--rate", str(rate), "--key-directory", str(folder / "keys")]
            _under_attack(site, [*words, *site.inboxes()], pairs)


class Site:
    """A cluster whose processes speak over tcp on loopback."""

    def __init__(self, folder: Path, work: Workload, *, locked: bool) -> None:
        """Prepare; `with` starts it."""
        self._folder = folder
        self._work = work
        self._num_runs = 0
        self._bind = _free_address()
        self._cluster = LocalCluster(
            ClusterPlan(
                layer_workers=1,
                attention_workers=1,
                router={"model": work.model},
                bind=self._bind,
                shared={"key_directory": folder / "keys"} if locked else {},
            )
        )

    def __enter__(self) -> "Site":
        """Start the cluster, and warm it up."""
        self._cluster.__enter__()
        self._cluster.wait_until_ready().close()
        self.run()
        return self

    def __exit__(self, *error: object) -> None:
        """Stop the cluster."""
        self._cluster.stop()

    def inboxes(self) -> list[str]:
        """Give the addresses of the router and its workers."""
        client = RouterClient(self._cluster.url)
        workers = client.status()["workers"]
        client.close()
        return [self._bind, *(worker["endpoint"] for worker in workers)]

    def run(self) -> float:
        """Run a job with prompts of its own; give its output tokens per second."""
        self._num_runs += 1
        prompts = make_prompts(self._work, 32000, seed=self._num_runs)
        batch = write_batch(self._folder / "in.jsonl", self._work, prompts)
        files = BatchFiles(input=batch, output=self._folder / "out.jsonl", report=None)
        return run_batch(files, self._cluster).output_tokens_per_s


def _workload(name: str, requests: int | None, tokens: int | None) -> Workload:
    chosen = choose_workload(name, num_requests=requests, output_tokens=tokens)
    return choose_workload(
        name,
        model=find_model(chosen.model),
        num_requests=requests,
        output_tokens=tokens,
    )


def _under_attack(site: Site, words: list[str], pairs: int) -> None:
    def beside() -> float:
        with _enemy(*words, "--dummy"):
            return site.run()

    def under() -> float:
        with _enemy(*words):
            return site.run()

    print(json.dumps(_compare(beside, under, pairs)))


def _compare(
    fine: Callable[[], float], hindered: Callable[[], float], pairs: int
) -> dict[str, object]:
    """Run both in turn, each as often first as the other; give the rates and what is lost."""
    rates: dict[str, list[float]] = {"fine": [], "hindered": []}
    for pair in range(pairs):
        order = [("fine", fine), ("hindered", hindered)]
        for name, run in order if pair % 2 == 0 else order[::-1]:
            rates[name].append(round(run(), 1))
    loss = 1 - statistics.median(rates["hindered"]) / statistics.median(rates["fine"])
    return {"tokens_per_s": rates, "lost": round(loss, 4)}


@contextmanager
def _enemy(*words: str) -> Iterator[None]:
    """Have an enemy's process run; it has begun when this begins."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.hostile", *words], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        process.stdout.readline()
        yield
        assert process.poll() is None, "the enemy has given up"
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def _free_address() -> Endpoint:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return Endpoint(f"tcp://127.0.0.1:{taken.getsockname()[1]}")


if __name__ == "__main__":
    app()
