"""Attention on pages for GPUs: a tile of an entry's rows looks at the pages where they are.

Source: the online softmax of FlashAttention-2, Dao 2023, section 3.1 (arXiv:2307.08691), and its
split over keys, Flash-Decoding, Dao et al. 2023.
"""

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["num_slots", "num_rows", "window"])
def attend_tiles(
    qkv,
    keys,
    values,
    key_scales,
    value_scales,
    tiles,
    pages,
    output,
    sums,
    num_slots,
    num_rows,
    window,
    scale,
    NUM_HEADS: tl.constexpr,
    NUM_KV_HEADS: tl.constexpr,
    HEAD_SIZE: tl.constexpr,
    PAGE_SIZE: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
    COLUMNS: tl.constexpr,
    SPLIT: tl.constexpr,
    SCALED: tl.constexpr,
):
    """Let the query heads of one KV head and one tile of rows attend to one stretch of positions.

    Program (tile, KV head, split); the split's results go to its own part of the outputs.

    Shapes:
        qkv: [T, (H + 2 G) D]
        keys, values: of one layer, [G, slots, D]; key_scales, value_scales: float32 [G, slots]
        tiles: int32 [n, 5]: first row, rows, the first one's position, end of what is seen, first cell
        pages: int32 [N]
        output: [S, T, H, D], sums: float32 [S, T, H]
    """
    tile, group, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    first_row, count = tl.load(tiles + tile * 5), tl.load(tiles + tile * 5 + 1)
    start, limit = tl.load(tiles + tile * 5 + 2), tl.load(tiles + tile * 5 + 3)
    table = pages + tl.load(tiles + tile * 5 + 4)

    query = tl.arange(0, QUERIES)
    column = tl.arange(0, COLUMNS)
    repeats: tl.constexpr = NUM_HEADS // NUM_KV_HEADS
    offset = query // repeats
    is_query, is_column = offset < count, column < HEAD_SIZE
    row = (first_row + offset).to(tl.int64)
    head = group * repeats + query % repeats
    width: tl.constexpr = (NUM_HEADS + 2 * NUM_KV_HEADS) * HEAD_SIZE
    place = qkv + row[:, None] * width + head[:, None] * HEAD_SIZE + column[None, :]
    queries = tl.load(place, mask=is_query[:, None] & is_column[None, :], other=0.0)
    position = start + offset
    stop = tl.minimum(position + 1, limit)

    begin = tl.maximum(split * SPLIT, (start - window + 1) // KEYS * KEYS)
    end = tl.minimum(tl.minimum(split * SPLIT + SPLIT, limit), start + count)
    peak = tl.full((QUERIES,), float("-inf"), dtype=tl.float32)
    total = tl.zeros((QUERIES,), dtype=tl.float32)
    attended = tl.zeros((QUERIES, COLUMNS), dtype=tl.float32)
    of_head = group.to(tl.int64) * num_slots
    for first_key in range(begin, end, KEYS):
        key = first_key + tl.arange(0, KEYS)
        exists = key < end
        page = tl.load(table + key // PAGE_SIZE, mask=exists, other=0)
        slot = of_head + page.to(tl.int64) * PAGE_SIZE + key % PAGE_SIZE
        cell = slot * HEAD_SIZE
        k = tl.load(
            keys + cell[None, :] + column[:, None],
            mask=exists[None, :] & is_column[:, None],
            other=0,
        )
        if SCALED:
            k = k.to(tl.float32)
        scores = tl.dot(queries, k.to(queries.dtype), input_precision="ieee") * scale
        if SCALED:
            scores *= tl.load(key_scales + slot, mask=exists, other=0.0)[None, :]
        is_seen = (key[None, :] < stop[:, None]) & (key[None, :] > position[:, None] - window)
        scores = tl.where(is_seen & exists[None, :], scores, float("-inf"))
        higher = tl.maximum(peak, tl.max(scores, 1))
        anchor = tl.where(higher == float("-inf"), 0.0, higher)
        weights = tl.exp(scores - anchor[:, None])
        shrink = tl.exp(peak - anchor)
        total = total * shrink + tl.sum(weights, 1)
        v = tl.load(
            values + cell[:, None] + column[None, :],
            mask=exists[:, None] & is_column[None, :],
            other=0,
        )
        if SCALED:
            v = v.to(tl.float32)
            weights *= tl.load(value_scales + slot, mask=exists, other=0.0)[None, :]
        attended *= shrink[:, None]
        attended += tl.dot(weights.to(queries.dtype), v.to(queries.dtype), input_precision="ieee")
        peak = higher
    total = tl.where(total > 0.0, total, 1.0)  # of a row that sees nothing
    attended /= total[:, None]
    cell = (split * num_rows + row) * NUM_HEADS + head
    tl.store(sums + cell, peak + tl.log(total), mask=is_query)
    place = output + cell[:, None] * HEAD_SIZE + column[None, :]
    tl.store(place, attended, mask=is_query[:, None] & is_column[None, :])


@triton.jit(do_not_specialize=["num_splits", "num_rows"])
def merge_splits(
    rows,
    parts,
    part_sums,
    output,
    sums,
    num_splits,
    num_rows,
    NUM_HEADS: tl.constexpr,
    HEAD_SIZE: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Bring the splits of one row and head together, program (row, head).

    Shapes:
        rows: int32 [k]
        parts: float32 [S, T, H, D], part_sums: float32 [S, T, H]
        output: [T, H, D], sums: float32 [T, H]
    """
    cell = tl.load(rows + tl.program_id(0)).to(tl.int64) * NUM_HEADS + tl.program_id(1)
    column = tl.arange(0, COLUMNS)
    inside = column < HEAD_SIZE
    peak = -float("inf")
    total = 0.0
    attended = tl.zeros((COLUMNS,), dtype=tl.float32)
    for split in range(num_splits):
        place = split * num_rows * NUM_HEADS + cell
        part_sum = tl.load(part_sums + place)
        higher = tl.maximum(peak, part_sum)
        anchor = tl.where(higher == -float("inf"), 0.0, higher)
        shrink, weight = tl.exp(peak - anchor), tl.exp(part_sum - anchor)
        part = tl.load(parts + place * HEAD_SIZE + column, mask=inside, other=0.0)
        attended = attended * shrink + part * weight
        total = total * shrink + weight
        peak = higher
    total = tl.where(total > 0.0, total, 1.0)
    attended /= total
    tl.store(output + cell * HEAD_SIZE + column, attended, mask=inside)
    tl.store(sums + cell, peak + tl.log(total))
