"""An uploaded file's way to the disk."""

import shutil
from pathlib import Path
from typing import BinaryIO

from common.errors import StoreFull


def keep_upload(source: BinaryIO, path: Path) -> int:
    """Copy to the disk; the file has its name only when it is whole.

    Returns:
        Its size in bytes.

    Raises:
        StoreFull: There is no room for it; nothing of it is left.
    """
    part = path.with_suffix(".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as target:
            shutil.copyfileobj(source, target, 2**20)
            size_bytes = target.tell()
        part.rename(path)
    except OSError as error:
        message = f"the file cannot be kept at {path}: {error.strerror}"
        raise StoreFull(message) from error
    finally:
        part.unlink(missing_ok=True)
    return size_bytes
