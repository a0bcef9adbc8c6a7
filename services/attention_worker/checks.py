"""What every engine refuses, before it writes anything."""

import numpy as np
from numpy.typing import NDArray

from common.errors import PageFault
from common.messages import Tensor
from common.messages.entries import (
    LOCAL_ALIGNMENT,
    NUM_COLUMNS,
    NUM_PAGES,
    NUM_PROMPT,
    NUM_ROWS,
    START,
    Entries,
    is_local,
)


def check_microbatch(
    entries: Entries, page_table: NDArray[np.int32], page_size: int, num_pages: int
) -> None:
    """Refuse entries that reach beyond their tables, and tables that reach beyond the pool.

    Raises:
        PageFault: They do.
    """
    if entries.shape[1:] != (NUM_COLUMNS,) or page_table.ndim != 1:
        raise PageFault(
            f"entries {entries.shape} and page table {page_table.shape} are no microbatch's"
        )
    columns = entries.astype(np.int64)
    if (columns < 0).any() or columns[:, NUM_PAGES].sum() != len(page_table):
        raise PageFault(
            f"the entries do not declare the {len(page_table)} cells of their page table"
        )
    needed = columns[:, START] + columns[:, NUM_ROWS]
    short = np.flatnonzero(needed > columns[:, NUM_PAGES] * page_size)
    if len(short):
        entry = short[0]
        raise PageFault(
            f"entry {entry} reaches position {needed[entry]}, "
            f"its {columns[entry, NUM_PAGES]} pages hold {page_size} each"
        )
    local = columns[is_local(entries)]
    if (local[:, START] % LOCAL_ALIGNMENT).any() or (
        local[:, START] + local[:, NUM_ROWS] > local[:, NUM_PROMPT]
    ).any():
        raise PageFault("a local entry must begin a key tile and be all prompt")
    outside = page_table[(page_table < 0) | (page_table >= num_pages)]
    if len(outside):
        raise PageFault(f"page {outside[0]} is outside the pool of {num_pages} pages")


def refuse_qkv(qkv: Tensor, expected: tuple[int, int], layer: int, num_layers: int) -> None:
    """Refuse q, k and v of another shape than their entries declare, or of no layer.

    Raises:
        PageFault: They are.
    """
    if qkv.shape != expected or not 0 <= layer < num_layers:
        raise PageFault(
            f"layer {layer} of {num_layers} got q, k and v of shape {qkv.shape}, "
            f"its entries declare {expected}"
        )
