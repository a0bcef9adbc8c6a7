"""`glinthawk collect-env`: what a report of a problem should say about the machine."""

import os
import platform
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Final

from common.config import PREFIX

_SECRET: Final = ("KEY", "SECRET", "TOKEN")
_CPU_INFO: Final = Path("/proc/cpuinfo")
_MEMORY_INFO: Final = Path("/proc/meminfo")


def collect() -> dict[str, str]:
    """Give names and values, in the order in which a person reads them. Nothing secret."""
    return {
        "glinthawk": _version("glinthawk"),
        "python": sys.version.split("\n")[0],
        "system": platform.platform(),
        "libc": " ".join(platform.libc_ver()),
        "processor": _line_of(_CPU_INFO, "model name"),
        "cores": f"{len(os.sched_getaffinity(0))} of {os.cpu_count()}",
        "memory": _line_of(_MEMORY_INFO, "MemTotal"),
        "gpus": _gpus(),
        **{f"package {name}": _version(name) for name in _packages()},
        **{
            f"variable {name}": _shown(name)
            for name in sorted(os.environ)
            if name.startswith(PREFIX)
        },
    }


def _packages() -> Iterator[str]:
    """Name what this package depends on, extras included, each once."""
    wanted = requires("glinthawk") or []
    names = {text.split("==")[0].split("[")[0].split(";")[0].strip() for text in wanted}
    return iter(sorted(names - {"glinthawk"}))


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _shown(name: str) -> str:
    return "(hidden)" if any(word in name for word in _SECRET) else os.environ[name]


def _line_of(path: Path, key: str) -> str:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return "unknown"
    found = (line.partition(":")[2].strip() for line in lines if line.startswith(key))
    return next(found, "unknown")


def _gpus() -> str:
    try:
        import torch
    except ImportError:
        return "unknown: torch is not installed"
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return ", ".join(names) or "none"
