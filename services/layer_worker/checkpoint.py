"""Read single tensors of a checkpoint in place, so that a worker touches only its layer range."""

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from common.checkpoint_header import (
    check_tensors,
    classifier_name,
    is_packed,
    read_headers,
    size_bytes,
)
from common.errors import ModelRefused
from common.model_spec import ModelSpec


class Checkpoint:
    """A directory of safetensors files; each is mapped when the first of its tensors is read."""

    def __init__(self, directory: Path) -> None:
        """Read what every tensor is, and none of them.

        Raises:
            ModelRefused: A file is missing, truncated or of another format; names it.
        """
        self._headers = read_headers(directory)
        self._files: dict[Path, safe_open] = {}

    def check(self, spec: ModelSpec, start: int, stop: int) -> None:
        """Refuse a checkpoint that cannot give the layers `[start, stop)`.

        Raises:
            ModelRefused: A tensor is missing, or of a wrong shape or dtype; names it.
        """
        check_tensors(self._headers, spec, start, stop)

    def classifier_name(self, spec: ModelSpec) -> str:
        """Name the tensor that classifies: its own if there is one, else the tied embedding."""
        return classifier_name(self._headers, spec)

    def size_bytes(self, spec: ModelSpec, start: int, stop: int) -> int:
        """Give the bytes of the layers `[start, stop)` in the files."""
        return size_bytes(self._headers, spec, start, stop)

    def is_packed(self, linear: str) -> bool:
        """Say whether the weight of a linear is packed."""
        return is_packed(self._headers, linear)

    def has(self, name: str) -> bool:
        """Say whether there is such a tensor."""
        return name in self._headers

    def tensor(self, name: str) -> torch.Tensor:
        """Read one tensor into CPU memory, or view it in the file's pages; never write to it.

        Raises:
            ModelRefused: There is no such tensor, or its file cannot be read.
        """
        header = self._headers.get(name)
        if header is None:
            raise ModelRefused(f"the checkpoint has no tensor {name}: download it again")
        try:
            if header.file not in self._files:
                self._files[header.file] = safe_open(header.file, framework="pt", device="cpu")
            tensor: torch.Tensor = self._files[header.file].get_tensor(name)  # type: ignore[no-untyped-call]
        except (OSError, SafetensorError) as error:
            raise ModelRefused(f"{header.file}: {name} cannot be read ({error})") from error
        return tensor
