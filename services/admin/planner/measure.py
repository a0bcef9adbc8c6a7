"""`glinthawk profile`: one profile per kind of node, measured on this machine."""

import os
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from common.errors import SettingsError
from common.messages.tensor import DTYPE_BYTES
from common.model_spec import ModelSpec, read_model_spec, resolve_model
from common.policy.profile import AttentionTimes, LayerTimes, Profile, write_profile
from common.runtime.process import keep_freed_memory, set_thread_environment
from services.admin.bench.workloads import find_model
from services.admin.planner.measure_services import (
    ALONE,
    FEW,
    MANY,
    PAGE_SIZE,
    Services,
    ServiceTimes,
    measure_services,
)
from services.admin.planner.models import of_spec
from services.admin.planner.replay import (
    ATTENTION_FILE,
    LAYER_FILE,
    ROUTER_FILE,
    Replay,
    slower_attention,
    slower_layer,
)
from services.attention_worker.config import AttentionWorkerSettings
from services.attention_worker.memory import free_memory_bytes
from services.router.config import choose_dtype

_SERVICES_S = 10.0
"""For the larger one of the services' jobs, about."""
_FEWEST_TOKENS = 20
_CONTEXT = 100
_LAYER_TIMES = ("layer", "layer_p90")


Say = Callable[[str], None]


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
    max_rows: int = 2048
    """Of a layer."""
    max_context: int = 4096
    """Of attention."""
    max_tokens: int = 120
    """Of each request of the services' jobs."""


def measure(wanted: Measuring, folder: Path, say: Say) -> list[Path]:
    """Measure this machine as each kind of node, and write a profile of each into a folder.

    Args:
        wanted: What is to be measured.
        folder: For the profiles; it is made.
        say: Told how far it is.

    Raises:
        GlinthawkError: The model cannot be served here, or the folder cannot be written.
    """
    directory = resolve_model(find_model(wanted.model))
    spec = read_model_spec(directory)
    dtype = choose_dtype(wanted.dtype, spec.dtype)
    node = _Node(
        wanted=wanted,
        folder=folder,
        directory=directory,
        spec=spec,
        dtype=dtype,
        kv_dtype=choose_dtype(wanted.kv_dtype, dtype),
        cores=tuple(sorted(os.sched_getaffinity(0))),
        memory_bytes=free_memory_bytes(),
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(f"{folder} cannot be written: {error.strerror}") from None
    # Before torch is loaded, which must find the thread counts in the environment.
    set_thread_environment(wanted.threads)
    keep_freed_memory()
    with _on_one_core(node):
        layer = {"dtype": dtype, **node.layers(say)}
        attention = {"dtype": node.kv_dtype, **node.attention(say)}
    times = node.services(layer["layer"], attention["attention"], say)
    node.write(LAYER_FILE, **layer)
    node.write(ATTENTION_FILE, **attention)
    node.write(ROUTER_FILE, dtype=dtype)
    replay = Replay(directory, spec, folder, (dtype, node.kv_dtype), times, pin=wanted.pin)
    by_layers = by_attention = 1.0
    if wanted.threads == 1:  # else processor time is not how long an engine works
        by_layers, by_attention = replay.slowdowns()
        layer = layer | {name: slower_layer(layer[name], by_layers) for name in _LAYER_TIMES}
        attention["attention"] = slower_attention(attention["attention"], by_attention)
        say(f"at work, layers take {by_layers:.2f}, attention {by_attention:.2f} of the time alone")
    node.write(LAYER_FILE, by_layers, **layer, messages=times.layer)
    node.write(ATTENTION_FILE, by_attention, **attention, messages=times.attention)
    node.write(ROUTER_FILE, dtype=dtype, router=times.router)
    latency_s = replay.latency()
    node.write(ROUTER_FILE, dtype=dtype, router=times.router, latency_s=latency_s)
    return [folder / name for name in (LAYER_FILE, ATTENTION_FILE, ROUTER_FILE)]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Node:
    """This machine with a model."""

    wanted: Measuring
    folder: Path
    directory: Path
    spec: ModelSpec
    dtype: str
    kv_dtype: str
    cores: tuple[int, ...]
    memory_bytes: int
    """That were free when nothing was loaded."""

    def layers(self, say: Say) -> dict[str, Any]:
        """Measure layers; gives fields of a profile."""
        from services.admin.planner.measure_layers import ROWS, LayersToMeasure, measure_layers
        from services.layer_worker.device import open_device

        device = open_device("auto", self.wanted.threads)
        rows = [each for each in ROWS if each <= self.wanted.max_rows]
        measured = LayersToMeasure(self.directory, self.spec, self.dtype, rows)
        median, slow = measure_layers(measured, device, say)
        return {"layer": median, "layer_p90": slow}

    def attention(self, say: Say) -> dict[str, Any]:
        """Measure attention; gives fields of a profile."""
        from services.admin.planner.measure_attention import Grid, measure_attention
        from services.attention_worker.machine import find_machine

        machine = find_machine(AttentionWorkerSettings(threads=self.wanted.threads))
        grid = Grid(self.spec, self.kv_dtype, PAGE_SIZE, self.wanted.max_context)
        times, points = measure_attention(grid, machine, say)
        return {"attention": times, "attention_points": points}

    def services(self, layer: LayerTimes, attention: AttentionTimes, say: Say) -> ServiceTimes:
        """Watch a small cluster for as many tokens as time allows."""
        own = self.spec.num_layers
        layers_s = own * (layer.pre(MANY) + layer.post(MANY)) + layer.classify(MANY)
        attention_s = own * MANY * (attention.entry_s + _CONTEXT * self._token_s(attention))
        num_tokens = int(_SERVICES_S / (layers_s + attention_s))
        services = Services(
            directory=self.directory,
            spec=self.spec,
            dtype=self.dtype,
            kv_dtype=self.kv_dtype,
            output_tokens=min(max(num_tokens, _FEWEST_TOKENS), self.wanted.max_tokens),
            threads=self.wanted.threads,
            cores=(self.cores[0], self.cores[-1]) if self.wanted.pin else None,
        )
        say(f"services: {ALONE}, {FEW} and {MANY} requests of {services.output_tokens} tokens")
        with TemporaryDirectory(prefix="glinthawk-profile-") as name:
            return measure_services(services, Path(name))

    def _token_s(self, attention: AttentionTimes) -> float:
        kv_bytes = 2 * self.spec.kv_size * DTYPE_BYTES[self.kv_dtype]
        return kv_bytes / attention.kv_bytes_per_s

    def write(self, name: str, slowdown: float = 1.0, **fields: Any) -> None:
        """Write a profile into the folder.

        Args:
            name: Of its file.
            slowdown: That its times contain: of work among others, compared with work alone.
            fields: Of the profile.
        """
        wanted = self.wanted
        profile = Profile(
            version=1,
            node=platform.node() or "this machine",
            source="measured",
            assumptions={
                "processor": _processor(),
                "processors": len(self.cores),
                "threads": wanted.threads or "one per processor",
                "pinned": str(wanted.pin),
                "model": wanted.model,
                "slowdown_at_work": slowdown,
            },
            model=of_spec(wanted.model, self.spec).shape,
            memory_bytes=self.memory_bytes,
            **fields,
        )
        write_profile(profile, self.folder / name)


@contextmanager
def _on_one_core(node: _Node) -> Iterator[None]:
    """Keep to the layer worker's core, if that is wanted."""
    if node.wanted.pin:
        os.sched_setaffinity(0, {node.cores[0]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, node.cores)


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
