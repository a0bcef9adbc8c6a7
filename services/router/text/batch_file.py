"""Read an uploaded batch file a stretch at a time, so that its size does not matter."""

from dataclasses import dataclass
from pathlib import Path

from services.router.text.line_parser import MAX_LINE_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where the reading of a batch file has come to."""

    number: int = 0
    """Of the next line; blank lines have none."""
    offset: int = 0
    """Of the next byte."""


def read_lines(path: Path, offset: int, max_lines: int) -> tuple[list[bytes], int]:
    """Read the lines from a byte on, few of them where they are long, blank ones left out.

    Of a line that is too long only the beginning is kept, enough to see that it is.

    Returns:
        The lines, and where to go on; the same offset again at the end of the file.
    """
    lines: list[bytes] = []
    with path.open("rb") as file:
        file.seek(offset)
        while len(lines) < max_lines and file.tell() < offset + MAX_LINE_BYTES:
            line = rest = file.readline(MAX_LINE_BYTES + 1)
            if not line:
                break
            while rest and not rest.endswith(b"\n"):
                rest = file.readline(MAX_LINE_BYTES)
            if line.strip():
                lines.append(line)
        return lines, file.tell()
