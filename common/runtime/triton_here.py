"""Whether Triton can compile kernels on this machine."""

import importlib.util
import os
import shutil

_COMPILERS = ("gcc", "clang")


def can_compile() -> bool:
    """Say whether Triton is installed and finds the C compiler by which it launches kernels."""
    if importlib.util.find_spec("triton") is None:
        return False
    return bool(os.environ.get("CC") or any(map(shutil.which, _COMPILERS)))
