"""`glinthawk up --emulate`: a cluster file as real processes, whose engines only let time pass."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from common.errors import SettingsError
from common.model_spec import read_model_spec
from common.policy.profile import write_profile
from services.admin.local_cluster import ClusterPlan
from services.admin.planner.cluster_file import ClusterFile, read_cluster
from services.admin.planner.hardware import find_profile
from services.admin.planner.models import of_spec
from services.admin.up import up

_PATIENCE_S = 60
"""On a few cores, one of dozens of processes may not get its turn for seconds."""


def up_emulated(
    path: Path, options: Mapping[str, Any], *, http_port: int, data: Path | None
) -> None:
    """Keep the cluster of a file running until Ctrl-C.

    Raises:
        SettingsError: Options were given that the file decides.
        GlinthawkError: The cluster cannot be.
    """
    given = [name.replace("_", "-") for name, value in options.items() if value is not None]
    if given:
        raise SettingsError(f"--{given[0]} is for {path} to say: leave it out, or --emulate")
    cluster = read_cluster(path)
    if data is not None:
        settings = {**cluster.router, "data_directory": data}
        cluster = cluster.model_copy(update={"router": settings})
    with emulated_plan(cluster, http_port=http_port, logs_to_terminal=True) as plan:
        up(plan)


@contextmanager
def emulated_plan(cluster: ClusterFile, **more: Any) -> Iterator[ClusterPlan]:
    """Give the local cluster that stands for another; its files last as long as the context.

    Latencies are added to every message, bandwidth is not bounded.

    Args:
        cluster: To stand for.
        more: Further fields of the plan.

    Raises:
        GlinthawkError: The cluster cannot be.
    """
    with cluster.model_directory() as directory, TemporaryDirectory() as name:
        scaled = {"compute": "emulated", "time_scale": cluster.time_scale}
        latency_s = cluster.network.network().latency_s
        layer, _ = _write(cluster, 1, directory, Path(name))
        attention, memory_bytes = _write(cluster, 2, directory, Path(name))
        router = cluster.router_settings(directory)
        yield ClusterPlan(
            layer_workers=router.pop("layer_workers"),
            attention_workers=router.pop("attention_workers"),
            router={"lease_s": _PATIENCE_S, "kv_patience_s": _PATIENCE_S, **router},
            layer={**scaled, "profile": layer},
            attention={**scaled, "profile": attention, "kv_memory": int(memory_bytes)},
            shared={"link_delay_ms": 1000 * latency_s * cluster.time_scale or None},
            threads=1,
            **more,
        )


def _write(
    cluster: ClusterFile, tier: Literal[1, 2], directory: Path, folder: Path
) -> tuple[Path, float]:
    """Write a tier's profile to where its workers find it, and give a node's memory, too."""
    model = of_spec(cluster.model, read_model_spec(directory))
    machine = cluster.tier1 if tier == 1 else cluster.tier2
    profile, memory_bytes = find_profile(machine, tier, model, cluster.kv_dtype)
    path = folder / f"tier{tier}.json"
    write_profile(profile, path)
    return path, memory_bytes
