"""How much memory this process may still take: the least that the host and its cgroups leave."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class _Controller:
    """Where a version of cgroups tells about memory."""

    mount: str
    limit: str
    used: str
    reclaimable: str
    """The line of `memory.stat` with cached file pages that nobody uses: they give way to a pool."""


_CONTROLLERS = {
    "": _Controller("sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
    "memory": _Controller(
        "sys/fs/cgroup/memory",
        "memory.limit_in_bytes",
        "memory.usage_in_bytes",
        "total_inactive_file",
    ),
}
"""By their name in `/proc/self/cgroup`: version 2 has one hierarchy without a name."""


def free_bytes_on(device: str) -> int:
    """Find the bytes that can be taken on a device before it runs out.

    Args:
        device: `cpu`, or a GPU in torch's words.
    """
    if device == "cpu":
        return free_memory_bytes()
    import torch  # only where pages are on a GPU

    free_bytes, _ = torch.cuda.mem_get_info(torch.device(device))
    return free_bytes


def free_memory_bytes(root: Path = Path("/")) -> int:
    """Find the bytes that can be taken before the host or a cgroup runs out.

    Args:
        root: Where `proc` and `sys` are.
    """
    return max(0, min([_host_bytes(root / "proc/meminfo"), *_cgroup_bytes(root)]))


def _host_bytes(meminfo: Path) -> int:
    fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
    return int(fields["MemAvailable"].split()[0]) * 1024


def _cgroup_bytes(root: Path) -> Iterator[int]:
    """Give what is left in this process's cgroups and in those around them."""
    memberships = root / "proc/self/cgroup"
    for line in memberships.read_text().splitlines() if memberships.exists() else []:
        _, name, path = line.split(":", 2)
        if controller := _CONTROLLERS.get(name):
            mount = root / controller.mount
            group = mount / path.removeprefix("/")
            for each in (group, *group.parents):
                # A container sees its own group as the mount's root, under the path of the host.
                if each.is_relative_to(mount) and (left := _left(each, controller)) is not None:
                    yield left


def _left(group: Path, controller: _Controller) -> int | None:
    limit = group / controller.limit
    if not limit.exists() or (text := limit.read_text().strip()) == "max":
        return None
    used = int((group / controller.used).read_text())
    stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    return int(text) - used + int(stat.get(controller.reclaimable, 0))
