"""What the system says about this machine's processors and memory: from `/proc` and `/sys`."""

import os
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Self

_ROOT = Path("/")
_HUGE_PAGES = "sys/kernel/mm/transparent_hugepage/enabled"


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """The processors that this process may use, and where memory is."""

    cpus: frozenset[int]
    nodes: dict[int, frozenset[int]]
    """CPUs of each NUMA node; empty where the system does not tell."""
    memory_nodes: frozenset[int]
    """Nodes that this process may take memory from."""
    memory_policy: str
    """The kernel's word for how memory is spread over nodes: `default`, `bind:0`, `interleave:0-1`."""
    huge_pages: str
    """`always`, `madvise`, `never`, or `unknown`; the pool asks for them, so two of these do."""

    @classmethod
    def read(cls, root: Path = _ROOT) -> Self:
        """Look at this machine.

        Args:
            root: Where `proc` and `sys` are.
        """
        nodes = {
            int(each.parent.name.removeprefix("node")): parse_numbers(each.read_text())
            for each in root.glob("sys/devices/system/node/node*/cpulist")
        }
        allowed = re.search(r"^Mems_allowed_list:\s*(.*)$", _text(root / "proc/self/status"), re.M)
        mode = re.search(r"\[(\w+)\]", _text(root / _HUGE_PAGES))
        return cls(
            cpus=frozenset(os.sched_getaffinity(0)),
            nodes=nodes,
            memory_nodes=parse_numbers(allowed[1]) if allowed else frozenset(),
            memory_policy=(_text(root / "proc/self/numa_maps").split() or ["", "default"])[1],
            huge_pages=mode[1] if mode else "unknown",
        )

    def nodes_of(self, cpus: Collection[int]) -> tuple[int, ...]:
        """Name the nodes that some CPUs are on."""
        return tuple(sorted(node for node, own in self.nodes.items() if own & set(cpus)))


def parse_numbers(text: str) -> frozenset[int]:
    """Read the system's way to write a set of numbers, such as `0-3,8`."""
    numbers: set[int] = set()
    for part in filter(None, text.strip().split(",")):
        first, _, last = part.partition("-")
        numbers |= set(range(int(first), int(last or first) + 1))
    return frozenset(numbers)


def huge_page_bytes(root: Path = _ROOT) -> int:
    """Give the bytes of this process that lie in huge pages now; 0 where the system does not tell."""
    found = re.search(r"^AnonHugePages:\s*(\d+) kB", _text(root / "proc/self/smaps_rollup"), re.M)
    return int(found[1]) * 1024 if found else 0


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
