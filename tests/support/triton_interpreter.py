"""Mends Triton's interpreter, by which kernels run on the processor, for numbers of bf16."""

from typing import Any

import numpy as np
from triton.runtime import interpreter


def _widen(handle: Any) -> Any:
    """Give numbers of bf16 in float32: their bits are the upper half of it."""
    if str(handle.dtype) != "bf16":
        return handle.data
    return (handle.data.astype(np.uint32) << 16).view(np.float32)


def _dot(self: Any, a: Any, b: Any, total: Any, *_: Any) -> Any:
    """Multiply; the interpreter's own takes the bits of bf16 for whole numbers."""
    product = np.matmul(_widen(a), _widen(b), dtype=total.data.dtype)
    return interpreter.TensorHandle(product + total.data, total.dtype.scalar)


interpreter.InterpreterBuilder.create_dot = _dot
