"""Row math by the kernels of `kernels/rows.h`: one pass over memory where torch takes up to ten."""

import ctypes
from collections.abc import Callable
from ctypes import Structure, byref, c_float, c_int32, c_int64, c_void_p
from functools import cache
from pathlib import Path
from typing import Any, Final

import torch

from common.runtime.triton_here import can_compile
from services.layer_worker.row_math import RowMath, TorchRowMath

_LIBRARY = Path(__file__).parent / "kernels" / "libglinthawk_rows.so"

_DTYPES: Final = {torch.bfloat16: 0, torch.float32: 1}
"""`GlinthawkDtype`"""

_NORM, _ADD_NORM, _ROTATE, _GATE, _QUANTIZE, _SCALE, _RESTORE = range(7)
"""`GlinthawkKind`"""


class _Pass(Structure):
    """`GlinthawkPass`."""

    _fields_ = (  # type: ignore[mutable-override]  # ctypes reads it once
        ("kind", c_int32),
        ("dtype", c_int32),
        ("num_threads", c_int32),
        ("epsilon", c_float),
        ("num_rows", c_int64),
        ("num_heads", c_int64),
        ("width", c_int64),
        ("stride", c_int64),
        ("rows", c_void_p),
        ("other", c_void_p),
        ("weight", c_void_p),
        ("output", c_void_p),
        ("scales", c_void_p),
        ("positions", c_void_p),
        ("table", c_void_p),
    )


Kernels = Callable[[Any], None]
"""`glinthawk_pass`, by reference; the interpreter is free while it runs."""


class NativeRowMath:
    """Row math in bf16 or fp32 on the CPU, shared out to torch's own threads."""

    def __init__(self, run: Kernels) -> None:
        """Take the kernels."""
        self._run = run

    def norm(self, rows: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
        """See `RowMath`."""
        output = torch.empty_like(rows)
        self._pass(_NORM, rows, weight=weight, epsilon=epsilon, output=output)
        return output

    def add_norm(
        self, rows: torch.Tensor, other: torch.Tensor, weight: torch.Tensor, epsilon: float
    ) -> torch.Tensor:
        """See `RowMath`."""
        output = torch.empty_like(rows)
        self._pass(_ADD_NORM, rows, other=other, weight=weight, epsilon=epsilon, output=output)
        return output

    def norm_heads_(self, heads: torch.Tensor, weight: torch.Tensor, epsilon: float) -> None:
        """See `RowMath`."""
        self._pass(_NORM, heads, weight=weight, epsilon=epsilon, output=heads)

    def rotate_(self, heads: torch.Tensor, positions: torch.Tensor, table: torch.Tensor) -> None:
        """See `RowMath`."""
        self._pass(_ROTATE, heads, positions=positions, table=table)

    def gate(self, gate_up: torch.Tensor) -> torch.Tensor:
        """See `RowMath`."""
        heads = gate_up.view(len(gate_up), 2, -1)  # [T, 2, F]
        output = torch.empty_like(heads[:, 0])
        self._pass(_GATE, heads, output=output)
        return output

    def quantize(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See `RowMath`."""
        output = torch.empty(rows.shape, dtype=torch.uint8)
        scales = torch.empty(len(rows))
        self._pass(_QUANTIZE, rows, output=output, scales=scales)
        return output, scales

    def scale_(self, rows: torch.Tensor, scales: torch.Tensor) -> None:
        """See `RowMath`."""
        self._pass(_SCALE, rows, scales=scales)

    def restore(self, rows: torch.Tensor, scales: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """See `RowMath`."""
        output = torch.empty(rows.shape, dtype=dtype)
        self._pass(_RESTORE, rows, scales=scales, output=output, dtype=dtype)
        return output

    def _pass(
        self,
        kind: int,
        rows: torch.Tensor,
        *,
        epsilon: float = 0.0,
        dtype: torch.dtype | None = None,
        **tensors: torch.Tensor,
    ) -> None:
        num_heads = rows.shape[1] if rows.dim() > 2 else 1
        task = _Pass(
            kind=kind,
            dtype=_DTYPES[dtype or rows.dtype],
            num_threads=torch.get_num_threads(),
            epsilon=epsilon,
            num_rows=rows.shape[0],
            num_heads=num_heads,
            width=rows.shape[-1],
            stride=rows.stride(0),
            rows=rows.data_ptr(),
            **{name: tensor.data_ptr() for name, tensor in tensors.items()},
        )
        self._run(byref(task))


@cache
def load() -> Kernels | None:
    """Load the kernels; None where they were not built."""
    try:
        library = ctypes.CDLL(str(_LIBRARY))
    except OSError:
        return None
    run: Kernels = library.glinthawk_pass
    return run


def choose_row_math(device: torch.device, dtype: torch.dtype) -> RowMath:
    """Take the kernels where they can run and know the dtype, else torch."""
    if device.type == "cuda" and can_compile():
        from services.layer_worker.triton_row_math import TritonRowMath

        return TritonRowMath()
    run = load() if device.type == "cpu" and dtype in _DTYPES else None
    return NativeRowMath(run) if run else TorchRowMath()


def kernel_path(device: torch.device) -> str:
    """Name the way of computing: results are equal bit for bit only where it is."""
    if device.type == "cuda" and can_compile():
        return "cuda-triton"
    return "cpu-native" if device.type == "cpu" and load() else f"{device.type}-torch"
