"""Where the wire's tensors become torch's, and back."""

from typing import Final

import torch

from common.messages.tensor import Tensor

TO_TORCH: Final = {
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp32": torch.float32,
}
"""The dtypes of activations and of caches, by their names on the wire."""

_NAMES: Final = {dtype: name for name, dtype in TO_TORCH.items()}


def to_torch(tensor: Tensor) -> torch.Tensor:
    """View a tensor of the wire; copies only memory that torch cannot use: read-only or unaligned.

    Raises:
        KeyError: The dtype is none of an activation.
    """
    dtype = TO_TORCH[tensor.dtype]
    if not tensor.memory.nbytes:
        return torch.empty(tensor.shape, dtype=dtype)
    writable = bytearray(tensor.memory) if tensor.memory.readonly else tensor.memory
    memory = torch.frombuffer(writable, dtype=torch.uint8)
    if memory.data_ptr() % dtype.itemsize:
        memory = memory.clone()
    return memory.view(dtype).view(tensor.shape)


def from_torch(tensor: torch.Tensor) -> Tensor:
    """Wrap a CPU tensor for the wire, without a copy if it is contiguous.

    Raises:
        KeyError: The dtype is none of an activation.
    """
    memory = tensor.contiguous().view(-1).view(torch.uint8).numpy()
    return Tensor(
        dtype=_NAMES[tensor.dtype],
        shape=tuple(tensor.shape),
        memory=memory.data,
    )
