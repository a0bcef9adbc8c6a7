"""The kernels' C interface: what `kernels/attention.h` declares, as ctypes sees it."""

import ctypes
from ctypes import POINTER, Structure, c_bool, c_char_p, c_int, c_int32, c_int64, c_uint64, c_void_p
from functools import cache
from pathlib import Path
from typing import Final, Self

from services.attention_worker.cache_shape import CacheShape

_LIBRARY = Path(__file__).parent / "kernels" / "libglinthawk_attention.so"

DTYPES: Final = {"bf16": 0, "fp16": 1, "fp32": 2, "int8": 3}
"""`glinthawk::Dtype`"""

DONE, REFUSED = range(2)
"""`GlinthawkOutcome`"""


class NativeCache(Structure):
    """The page pool: `glinthawk::Cache`."""

    _fields_ = (  # type: ignore[mutable-override]  # ctypes reads it once
        ("memory", c_void_p),
        ("num_pages", c_int64),
        ("num_layers", c_int32),
        ("page_size", c_int32),
        ("num_heads", c_int32),
        ("num_kv_heads", c_int32),
        ("head_size", c_int32),
        ("dtype", c_int32),
    )

    @classmethod
    def of(cls, shape: CacheShape) -> Self:
        """Take a cache's shape; memory, pages and query heads are yet to come."""
        return cls(
            num_layers=shape.num_layers,
            page_size=shape.page_size,
            num_kv_heads=shape.num_kv_heads,
            head_size=shape.head_size,
            dtype=DTYPES[shape.dtype],
        )


class NativeMicrobatch(Structure):
    """What is written and attends: `GlinthawkMicrobatch`."""

    _fields_ = (  # type: ignore[mutable-override]  # ctypes reads it once
        ("entries", c_void_p),
        ("num_entries", c_int64),
        ("page_table", c_void_p),
        ("num_cells", c_int64),
        ("qkv", c_void_p),
        ("num_rows", c_int64),
        ("output", c_void_p),
        ("log_sums", c_void_p),
        ("dtype", c_int32),
        ("layer", c_int32),
        ("window", c_int32),
    )


class NativeLibrary:
    """The functions of `kernels/attention.h`. The interpreter is free while one runs."""

    def __init__(self, path: Path) -> None:
        """Load a library.

        Raises:
            OSError: It cannot be loaded.
        """
        library = ctypes.CDLL(str(path))
        self._supports = library.glinthawk_supports
        self._supports.argtypes, self._supports.restype = (c_char_p,), c_bool
        self._page_bytes = library.glinthawk_page_bytes
        self._page_bytes.argtypes, self._page_bytes.restype = (POINTER(NativeCache),), c_int64
        self._open = library.glinthawk_open
        self._open.argtypes = (POINTER(NativeCache), c_char_p, c_int, POINTER(c_int32), c_int)
        self._open.restype = c_void_p
        self.attend = library.glinthawk_attend
        """(engine, microbatch) -> `DONE`, `REFUSED` or, where memory ran out, something else"""
        self.attend.argtypes, self.attend.restype = (c_void_p, POINTER(NativeMicrobatch)), c_int32
        self.write = library.glinthawk_write
        """as `attend`, of rows without queries"""
        self.write.argtypes, self.write.restype = (c_void_p, POINTER(NativeMicrobatch)), c_int32
        self.close = library.glinthawk_close
        self.close.argtypes, self.close.restype = (c_void_p,), None
        self.read = library.glinthawk_read
        """(engine) -> their sum: has all threads read the pool once, to measure how fast that is"""
        self.read.argtypes, self.read.restype = (c_void_p,), c_uint64

    def supports(self, instruction_set: str) -> bool:
        """Say whether this processor can run an instruction set."""
        return bool(self._supports(instruction_set.encode()))

    def page_bytes(self, cache: NativeCache) -> int:
        """Give the bytes of one page, all layers."""
        return int(self._page_bytes(cache))

    def open(
        self, cache: NativeCache, instruction_set: str, num_threads: int, cpus: tuple[int, ...]
    ) -> int | None:
        """Make an engine on the cache's memory; None if there is too little for its scratch."""
        numbers = (c_int32 * len(cpus))(*cpus)
        engine: int | None = self._open(
            cache, instruction_set.encode(), num_threads, numbers, len(cpus)
        )
        return engine


@cache
def load() -> NativeLibrary | None:
    """Load the kernels; None where they were not built."""
    try:
        return NativeLibrary(_LIBRARY)
    except OSError:
        return None
