"""Hostile messages at the four inboxes of a living cluster: nothing may end, change or grow.

    python -m benchmarks.fuzz --messages 1000000

The links are in the clear, so that every message reaches the codec; with keys, none would. Real messages
are recorded on their way and replayed. No hostile message names the receiver's epoch but those that were
sent to it once: who knows an epoch and may write can command, which is what keys are for.
"""

import hashlib
import json
import re
import threading
import time
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import psutil
import typer
import zmq

from benchmarks.hostile import Arsenal, Frames, send_messages
from services.admin.bench.workloads import Workload, make_prompts, write_batch
from services.admin.local_cluster import ClusterPlan, LocalCluster
from services.admin.run_batch import BatchFiles, run_batch

_JOB = Workload(model="examples/tiny/model", num_requests=32, prompt_tokens=40, output_tokens=40)
_VOCABULARY = 40
_HELD = 300
"""Messages that a tap remembers, the latest ones."""
_SETTLE_S = 2.0
_MAPPING = re.compile(r"(?m)^(?=[0-9a-f]+-[0-9a-f]+ )")


def main(
    messages: Annotated[int, typer.Option(help="In all, to the four inboxes in turn.")] = 1_000_000,
    seed: int = 0,
) -> None:
    """Send them, and print what has become of the cluster."""
    with TemporaryDirectory(prefix="gh-") as name:
        taps = {service: Tap(Path(name) / service) for service in ("router", "layer", "attention")}
        with LocalCluster(_plan(taps)) as cluster:
            inboxes = _inboxes(cluster)
            for service, tap in taps.items():
                tap.open(inboxes[service])
            cluster.wait_until_ready().close()
            quiet = _run(Path(name), cluster)
            memory, pages = _memory(cluster), _hash_of_pages(cluster)
            started_s = time.monotonic()
            sent = {
                service: _attack(address, taps.get(service), messages // len(inboxes), seed)
                for service, address in inboxes.items()
            }
            time.sleep(_SETTLE_S)
            cluster.check()  # raises if a process has ended
            figures = {
                "messages": sum(sum(kinds.values()) for kinds in sent.values()),
                "sent": sent,
                "wall_s": round(time.monotonic() - started_s, 1),
                "processes_ended": 0,
                "pages_unchanged": _hash_of_pages(cluster) == pages,
                "grown_mb": {
                    name: round((size - memory[name]) / 1e6, 1)
                    for name, size in _memory(cluster).items()
                },
                "same_output_afterwards": _run(Path(name), cluster) == quiet,
                "rejected_at_least": _rejected(cluster),
            }
        for tap in taps.values():
            tap.close()
    print(json.dumps(figures, indent=1))


class Tap:
    """An address that hands everything on to an inbox, and remembers what that was."""

    def __init__(self, path: Path) -> None:
        """Listen; nothing is handed on yet."""
        self.address = f"ipc://{path}"
        self.held: list[Frames] = []
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._inbox = self._context.socket(zmq.PULL)
        self._inbox.bind(self.address)

    def open(self, target: str) -> None:
        """Begin to hand on."""
        outgoing = self._context.socket(zmq.PUSH)
        outgoing.connect(target)

        def hand_on() -> None:
            try:
                while True:
                    frames = self._inbox.recv_multipart()
                    self.held = [*self.held[-_HELD:], frames]
                    outgoing.send_multipart(frames)
            except zmq.ContextTerminated:
                self._inbox.close(linger=0)
                outgoing.close(linger=0)

        threading.Thread(target=hand_on, daemon=True).start()

    def close(self) -> None:
        """Hand nothing on any more."""
        self._context.term()


def _plan(taps: dict[str, Tap]) -> ClusterPlan:
    to_router = {"router-endpoint": taps["router"].address}
    return ClusterPlan(
        layer_workers=1,
        attention_workers=1,
        router={"model": _JOB.model},
        layer={**to_router, "advertise": taps["layer"].address},
        attention={
            **to_router,
            "advertise": taps["attention"].address,
            "kv-memory": "64MiB",
        },
    )


def _inboxes(cluster: LocalCluster) -> dict[str, str]:
    names = {
        "router": "router",
        "kv_manager": "kv-manager",
        "layer": "layer-worker-0",
        "attention": "attention-worker-0",
    }
    return {service: f"ipc://{cluster.directory}/{name}" for service, name in names.items()}


def _attack(address: str, tap: Tap | None, number: int, seed: int) -> dict[str, int]:
    arsenal = Arsenal(list(tap.held) if tap else (), seed=seed)
    send_messages([address], arsenal.draw(), number=number)
    return dict(arsenal.drawn)


def _run(folder: Path, cluster: LocalCluster) -> str:
    """Run the job; give the text of all results."""
    batch = write_batch(folder / "in.jsonl", _JOB, make_prompts(_JOB, _VOCABULARY, seed=0))
    output = folder / "out.jsonl"
    run_batch(BatchFiles(input=batch, output=output, report=None), cluster)
    results = [json.loads(line) for line in output.read_text().splitlines()]
    return json.dumps([result["response"]["body"]["choices"] for result in results])


def _memory(cluster: LocalCluster) -> dict[str, int]:
    return {
        name: psutil.Process(pid).memory_info().rss for name, pid in cluster.processes().items()
    }


def _hash_of_pages(cluster: LocalCluster) -> str:
    """Hash the page pool, which is the memory that is advised to be in huge pages."""
    pid = cluster.processes()["attention-worker-0"]
    mappings = _MAPPING.split(Path(f"/proc/{pid}/smaps").read_text())
    pools = [
        each.split()[0].split("-") for each in mappings if " hg" in each.rpartition("VmFlags")[2]
    ]
    found = hashlib.sha256()
    with Path(f"/proc/{pid}/mem").open("rb") as memory:
        for start, stop in pools:
            memory.seek(int(start, 16))
            found.update(memory.read(int(stop, 16) - int(start, 16)))
    assert pools, "no page pool was found"
    return found.hexdigest()


def _rejected(cluster: LocalCluster) -> dict[str, dict[str, int]]:
    """Read from the logs, which have the 1st, 2nd, 4th, 8th … of each kind, how many were kept out."""
    counted: dict[str, dict[str, int]] = {}
    for log in cluster.directory.glob("*.log"):
        numbers: Counter[str] = Counter()
        for line in log.read_text().splitlines():
            fields = json.loads(line) if line.startswith("{") else {}
            number = fields.get("num_rejected", fields.get("num_dropped"))
            if number:
                numbers[fields.get("kind") or fields["reason"]] = number
        counted[log.stem] = dict(numbers)
    return counted


if __name__ == "__main__":
    typer.run(main)
