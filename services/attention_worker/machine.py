"""What an attention engine computes with: instructions, threads, and the CPUs they run on."""

import os
from dataclasses import dataclass
from typing import Literal, get_args

from common.errors import SettingsError
from common.runtime.triton_here import can_compile
from services.attention_worker import native_library
from services.attention_worker.config import AttentionWorkerSettings, InstructionSet

Kernel = InstructionSet | Literal["torch", "gather", "triton"]
"""How attention is computed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """The part of a machine that one engine uses."""

    instruction_set: Kernel
    num_threads: int
    device: str = "cpu"
    """In torch's words."""
    cpus: tuple[int, ...] = ()
    """Where the threads run; none means anywhere."""

    @property
    def kernel_path(self) -> str:
        """Name the way of computing: results are equal bit for bit only where it is."""
        return f"{self.device.partition(':')[0]}-{self.instruction_set}"


def find_machine(settings: AttentionWorkerSettings) -> Machine:
    """Choose the best that this machine has, or what the settings ask for.

    Raises:
        SettingsError: What the settings ask for cannot be had here.
    """
    if settings.device != "cpu":
        return _gpu(settings)
    cpus = sorted(os.sched_getaffinity(0))
    if settings.pin_threads:
        cpus = cpus[:-1] or cpus  # one is for messages
    return Machine(
        instruction_set=_choose(settings.kernel),
        num_threads=settings.threads or len(cpus),
        cpus=tuple(cpus) if settings.pin_threads else (),
    )


def _gpu(settings: AttentionWorkerSettings) -> Machine:
    import torch  # only where pages are on a GPU

    num_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if int(settings.device.partition(":")[2] or 0) >= num_gpus:
        message = f"--device {settings.device}: torch finds {num_gpus or 'no'} GPUs here; give cpu"
        raise SettingsError(message)
    can_run: list[Kernel] = ["gather", "triton"] if can_compile() else ["gather"]
    return Machine(
        instruction_set=_pick(settings.kernel, can_run),
        num_threads=settings.threads or 1,
        device=settings.device,
    )


def _choose(wanted: str) -> Kernel:
    native = native_library.load()
    known: tuple[InstructionSet, ...] = get_args(InstructionSet)
    can_run: list[Kernel] = ["gather", "torch"]
    can_run += [name for name in known if native and native.supports(name)]
    return _pick(wanted, can_run)


def _pick(wanted: str, can_run: list[Kernel]) -> Kernel:
    """Take what is wanted, or the last of what can run."""
    for name in can_run:
        if name == wanted:
            return name
    if wanted == "auto":
        return can_run[-1]
    raise SettingsError(f"--kernel {wanted} cannot run here, only {', '.join(can_run)} can")
