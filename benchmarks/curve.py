"""What security costs a job: the lock on the links, and an enemy who rattles at it.

    python -m benchmarks.curve cost --workload A        # locked links against links in the clear
    python -m benchmarks.curve link --size-kb 256       # processor time of one message, both ends
    python -m benchmarks.curve messages --rate 1000     # hostile messages, links in the clear
    python -m benchmarks.curve connections --rate 100   # connections with unknown keys, links locked

An enemy is compared with the same enemy aimed at a port of its own: on one machine it takes processor
time in any case. Two sides take turns of some seconds, in jobs that do not end meanwhile.
"""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer
import zmq

from benchmarks.turns import Side, Site, take_turns
from common.wire.keys import create_keys
from services.admin.bench.workloads import Workload, choose_workload, find_model

app = typer.Typer(add_completion=False)

Pairs = Annotated[int, typer.Option(help="Of turns that are compared.")]
Turn = Annotated[float, typer.Option("--turn-s", help="Length of each turn.")]
Prompt = Annotated[int | None, typer.Option("--prompt-tokens", help="Of each request.")]
Letter = Annotated[str, typer.Option("--workload", help="A, B or C of `bench throughput`.")]


@app.command()
def cost(
    workload: Letter = "A", pairs: Pairs = 16, turn_s: Turn = 2.0, prompt_tokens: Prompt = None
) -> None:
    """Compare locked links over tcp with links over tcp in the clear."""
    work = _workload(workload, prompt_tokens)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="gh-")))
        create_keys(folder / "keys")
        clear = stack.enter_context(Site(folder, work))
        locked = stack.enter_context(Site(folder, work, keys=folder / "keys"))
        figures = take_turns(clear.side(), locked.side(), pairs, turn_s)
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
    rate: float = 1000, workload: Letter = "C", pairs: Pairs = 16, turn_s: Turn = 2.0
) -> None:
    """Compare a job under hostile messages with one beside them."""
    with TemporaryDirectory(prefix="gh-") as name, Site(Path(name), _workload(workload)) as site:
        words = ["messages", "--rate", str(rate), *site.inboxes()]
        _compare_attack(site, words, pairs, turn_s)


@app.command()
def connections(
    rate: float = 100, workload: Letter = "C", pairs: Pairs = 16, turn_s: Turn = 2.0
) -> None:
    """Compare a job under hostile connections with one beside them."""
    with TemporaryDirectory(prefix="gh-") as name:
        folder = Path(name)
        create_keys(folder / "keys")
        with Site(folder, _workload(workload), keys=folder / "keys") as site:
            words = ["connections", "--rate", str(rate), "--key-directory", str(folder / "keys")]
            _compare_attack(site, [*words, *site.inboxes()], pairs, turn_s)


def _workload(name: str, prompt_tokens: int | None = None) -> Workload:
    model = find_model(choose_workload(name).model)
    return choose_workload(name, model=model, prompt_tokens=prompt_tokens)


def _compare_attack(site: Site, words: list[str], pairs: int, turn_s: float) -> None:
    with _enemy(*words, "--dummy") as beside, _enemy(*words) as under:
        sides = Side(site.client, [beside]), Side(site.client, [under])
        figures = take_turns(*sides, pairs, turn_s)
    print(json.dumps(figures))


@contextmanager
def _enemy(*words: str) -> Iterator[int]:
    """Have an enemy's process run; gives its id when it has begun."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.hostile", *words], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        process.stdout.readline()
        yield process.pid
        assert process.poll() is None, "the enemy has given up"
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


if __name__ == "__main__":
    app()
