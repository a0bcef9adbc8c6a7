"""The wire's tensor: a dtype's name, a shape and the memory, with no opinion about a library."""

from dataclasses import dataclass
from math import prod
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

DTYPE_BYTES = {
    "bf16": 2,
    "fp16": 2,
    "fp32": 4,
    "fp64": 8,
    "int8": 1,
    "int32": 4,
    "int64": 8,
}
"""Every dtype that may cross the wire, with the bytes of one number."""

_TO_NUMPY: dict[str, np.dtype[Any]] = {
    "fp16": np.dtype("<f2"),
    "fp32": np.dtype("<f4"),
    "fp64": np.dtype("<f8"),
    "int8": np.dtype("i1"),
    "int32": np.dtype("<i4"),
    "int64": np.dtype("<i8"),
}
_FROM_NUMPY = {dtype: name for name, dtype in _TO_NUMPY.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """Little-endian numbers in row-major order, as they cross the wire.

    numpy has no bfloat16, so the memory stays bytes until an engine gives it a meaning. Received
    memory may begin at any address, odd ones included. A tensor that was sent belongs to the wire.
    """

    dtype: str
    shape: tuple[int, ...]
    memory: memoryview
    """`size_bytes` bytes, contiguous, format `B`."""

    @classmethod
    def of(cls, array: NDArray[Any]) -> Self:
        """Wrap a numpy array; copies only if it is not contiguous.

        Raises:
            KeyError: The array's dtype may not cross the wire.
        """
        array = np.ascontiguousarray(array)
        return cls(dtype=_FROM_NUMPY[array.dtype], shape=array.shape, memory=_bytes_of(array))

    @property
    def size_bytes(self) -> int:
        """The bytes that dtype and shape ask for."""
        return prod(self.shape) * DTYPE_BYTES[self.dtype]

    def numpy(self) -> NDArray[Any]:
        """View the memory as an array (possibly unaligned, which numpy handles).

        Raises:
            KeyError: numpy has no such dtype (bf16).
        """
        array: NDArray[Any] = np.frombuffer(self.memory, _TO_NUMPY[self.dtype])
        return array.reshape(self.shape)

    def rows(self, start: int, stop: int) -> Self:
        """View the rows `[start, stop)` of the first dimension, without a copy."""
        row_bytes = prod(self.shape[1:]) * DTYPE_BYTES[self.dtype]
        return type(self)(
            dtype=self.dtype,
            shape=(stop - start, *self.shape[1:]),
            memory=self.memory[start * row_bytes : stop * row_bytes],
        )


def _bytes_of(array: NDArray[Any]) -> memoryview:
    # An empty array has no memory that could be cast.
    return array.data.cast("B") if array.size else memoryview(b"")
