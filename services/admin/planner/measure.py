"""`glinthawk profile`: one profile per kind of node, measured on this machine."""

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from common.errors import SettingsError
from common.model_spec import ModelSpec, read_model_spec, resolve_model
from common.policy.profile import Profile, write_profile
from common.runtime.process import keep_freed_memory, set_thread_environment
from services.admin.bench.workloads import find_model
from services.admin.planner.models import of_spec
from services.attention_worker.config import AttentionWorkerSettings
from services.attention_worker.memory import free_memory_bytes
from services.router.config import choose_dtype

LAYER_FILE, ATTENTION_FILE, ROUTER_FILE = (
    "layer-worker.json",
    "attention-worker.json",
    "router.json",
)
_PAGE_SIZE = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Measuring:
    """What is to be measured."""

    model: str
    """A checkpoint with weights, or `random:` and the name of a shape."""
    dtype: str = "auto"
    kv_dtype: str = "auto"
    threads: int | None = None
    pin: bool = False
    """Keep to one core for each tier while measuring, as on machines of their own."""


def measure(wanted: Measuring, folder: Path) -> list[Path]:
    """Measure this machine as each kind of node, and write a profile of each into a folder.

    Raises:
        GlinthawkError: The model cannot be served here, or the folder cannot be written.
    """
    directory = resolve_model(find_model(wanted.model))
    spec = read_model_spec(directory)
    dtype = choose_dtype(wanted.dtype, spec.dtype)
    kv_dtype = choose_dtype(wanted.kv_dtype, dtype)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(f"{folder} cannot be written: {error.strerror}") from None
    # Before torch is loaded, which must find the thread counts in the environment.
    set_thread_environment(wanted.threads)
    keep_freed_memory()
    parts = _services(wanted, directory, spec, dtype)
    if wanted.pin:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    fields = {
        LAYER_FILE: {"dtype": dtype, **parts["layer"], **_layers(wanted, directory, spec, dtype)},
        ATTENTION_FILE: {
            "dtype": kv_dtype,
            **parts["attention"],
            **_attention(wanted, spec, kv_dtype),
        },
        ROUTER_FILE: {"dtype": dtype, **parts["router"]},
    }
    return [_write(folder / name, spec, wanted, content) for name, content in fields.items()]


def _services(
    wanted: Measuring, directory: Path, spec: ModelSpec, dtype: str
) -> Mapping[str, Mapping[str, Any]]:
    from services.admin.planner.measure_services import measure_services

    with TemporaryDirectory(prefix="glinthawk-profile-") as name:
        times = measure_services(directory, spec, dtype, Path(name), pinned=wanted.pin)
    return {
        "layer": {"messages": times.layer},
        "attention": {"messages": times.attention},
        "router": {"router": times.router, "latency_s": times.latency_s},
    }


def _layers(wanted: Measuring, directory: Path, spec: ModelSpec, dtype: str) -> Mapping[str, Any]:
    from services.admin.planner.measure_layers import measure_layers
    from services.layer_worker.device import open_device

    device = open_device("auto", wanted.threads)
    median, slow = measure_layers(directory, spec, dtype, device)
    return {"layer": median, "layer_p90": slow}


def _attention(wanted: Measuring, spec: ModelSpec, kv_dtype: str) -> Mapping[str, Any]:
    from services.admin.planner.measure_attention import measure_attention
    from services.attention_worker.machine import find_machine

    machine = find_machine(AttentionWorkerSettings(threads=wanted.threads))
    times, points = measure_attention(spec, kv_dtype, _PAGE_SIZE, machine)
    return {"attention": times, "attention_points": points}


def _write(path: Path, spec: ModelSpec, wanted: Measuring, fields: Mapping[str, Any]) -> Path:
    profile = Profile(
        version=1,
        node=platform.node() or "this machine",
        source="measured",
        assumptions={
            "processor": _processor(),
            "processors": len(os.sched_getaffinity(0)),
            "threads": wanted.threads or "one per processor",
            "pinned": str(wanted.pin),
            "model": wanted.model,
        },
        model=of_spec(wanted.model, spec).shape,
        memory_bytes=free_memory_bytes(),
        **fields,
    )
    write_profile(profile, path)
    return path


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
