"""What a layer worker computes on, and how rows get there and back."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Protocol, TypeVar

import torch

from common.errors import SettingsError
from common.runtime.engine_thread import Launched

Compute = Callable[[Sequence[torch.Tensor]], tuple[Any, Sequence[torch.Tensor]]]
"""From what arrived, on the device: what stays there, and what is to come back to the host."""

Captured = Callable[[], None]
"""Does again what was captured, with what is now in the tensors that it read and wrote."""

T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Finished:
    """What a launch came to."""

    kept: Any
    """What stays on the device."""
    taken: tuple[torch.Tensor, ...]
    """What came back, in the host's memory."""
    seconds: float
    """How long the device computed or, if that is longer, it took to tell it what to compute: nothing
    comes out faster. Copies that others' computing hides are not in it."""


Wrap = Callable[[Finished], T_co]


class Device(Protocol):
    """Brings rows in, computes, and takes rows out; launches end in the order they began.

    Nothing here may wait for an earlier launch, so that one microbatch's rows travel while
    another one computes.
    """

    @property
    def place(self) -> torch.device:
        """Where tensors are that stay."""
        ...

    @property
    def max_launched(self) -> int:
        """Launches that are worth having under way at once."""
        ...

    @property
    def captures(self) -> bool:
        """Whether work on the same tensors is faster when it was captured before."""
        ...

    def launch(
        self,
        arrived: Sequence[Sequence[torch.Tensor]],
        compute: Compute,
        wrap: Wrap[T_co],
    ) -> Launched[T_co]:
        """Compute with what arrived on the host.

        Args:
            arrived: Of each input its parts, in the order of their rows; at least one each.
            compute: Called with the inputs on the device, at once or when those before it are done.
            wrap: Turns the end into the launch's result.
        """
        ...

    def capture(self, function: Callable[[], None]) -> Captured:
        """Record what a function does on tensors that stay where they are.

        It is called a few times. Only while nothing is launched.
        """
        ...

    def settle(self) -> None:
        """Wait until all that was asked for is done."""
        ...


class CpuDevice:
    """The processor: rows are where they are needed, and a launch is over when it returns."""

    place = torch.device("cpu")
    max_launched = 1
    captures = False

    def launch(
        self,
        arrived: Sequence[Sequence[torch.Tensor]],
        compute: Compute,
        wrap: Wrap[T_co],
    ) -> Launched[T_co]:
        """See `Device`."""
        started_s = perf_counter()
        kept, taken = compute([join(parts) for parts in arrived])
        result = wrap(Finished(kept, tuple(taken), perf_counter() - started_s))
        return Launched(lambda: result)

    def capture(self, function: Callable[[], None]) -> Captured:
        """Give the function: there is nothing to be gained."""
        return function

    def settle(self) -> None:
        """See `Device`."""


def join(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Put rows together; a single part is taken as it is."""
    return parts[0] if len(parts) == 1 else torch.cat([*parts])


def open_device(name: str, num_threads: int | None) -> Device:
    """Choose the device, and how many CPU threads compute.

    Args:
        name: `auto`, `cpu`, `cuda` or `cuda:` and a number.
        num_threads: None leaves it to torch.

    Raises:
        SettingsError: There is no such device.
    """
    if num_threads:
        torch.set_num_threads(num_threads)
    num_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "cpu" or (name == "auto" and not num_gpus):
        return CpuDevice()
    index = int(name.partition(":")[2] or 0)
    if index >= num_gpus:
        message = f"--device {name}: torch finds {num_gpus or 'no'} GPUs here; give cpu, or auto"
        raise SettingsError(message)
    from services.layer_worker.cuda_device import CudaDevice

    return CudaDevice(torch.device("cuda", index))
