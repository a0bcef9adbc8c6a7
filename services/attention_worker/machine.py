"""What an attention engine computes with: instructions, threads, and the CPUs they run on."""

import os
from dataclasses import dataclass
from typing import Literal, get_args

from common.errors import SettingsError
from services.attention_worker import native_library
from services.attention_worker.config import AttentionWorkerSettings, InstructionSet


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """The part of a machine that one engine uses."""

    instruction_set: InstructionSet | Literal["torch"]
    num_threads: int
    cpus: tuple[int, ...] = ()
    """Where the threads run; none means anywhere."""

    @property
    def kernel_path(self) -> str:
        """Name the way of computing: results are equal bit for bit only where it is."""
        return f"cpu-{self.instruction_set}"


def find_machine(settings: AttentionWorkerSettings) -> Machine:
    """Choose the best that this machine has, or what the settings ask for.

    Raises:
        SettingsError: What the settings ask for cannot be had here.
    """
    cpus = sorted(os.sched_getaffinity(0))
    if settings.pin_threads:
        cpus = cpus[:-1] or cpus  # one is for messages
    return Machine(
        instruction_set=_choose(settings.kernel),
        num_threads=settings.threads or len(cpus),
        cpus=tuple(cpus) if settings.pin_threads else (),
    )


def _choose(wanted: str) -> InstructionSet | Literal["torch"]:
    native = native_library.load()
    known: tuple[InstructionSet, ...] = get_args(InstructionSet)
    can_run: list[InstructionSet | Literal["torch"]] = ["torch"]
    can_run += [name for name in known if native and native.supports(name)]
    for name in can_run:
        if name == wanted:
            return name
    if wanted == "auto":
        return can_run[-1]
    raise SettingsError(f"--kernel {wanted} cannot run here, only {', '.join(can_run)} can")
