"""Rows for people and for `awk`: aligned, and never cut, since ids are there to be copied."""

from collections.abc import Iterable, Sequence
from typing import TextIO


def write_columns(headings: Sequence[str], rows: Iterable[Sequence[str]], out: TextIO) -> None:
    """Write a heading and rows, each column as wide as its widest cell."""
    table = [headings, *rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        out.write("  ".join(cells).rstrip() + "\n")
