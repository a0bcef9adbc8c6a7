"""What a layer worker computes on."""

from typing import Literal

import torch

from common.errors import SettingsError


def open_device(name: Literal["auto", "cpu", "cuda"], num_threads: int | None) -> torch.device:
    """Choose the device, and how many CPU threads compute.

    Raises:
        SettingsError: There is no such device.
    """
    if num_threads:
        torch.set_num_threads(num_threads)
    has_gpu = torch.cuda.is_available()
    if name == "cuda" and not has_gpu:
        message = "--device cuda: torch finds no GPU here; give cpu, or auto"
        raise SettingsError(message)
    return torch.device("cuda" if has_gpu and name != "cpu" else "cpu")
