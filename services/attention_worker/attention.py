"""Paged attention in plain torch: queries meet the keys tile by tile, with a running softmax.

Source: FlashAttention-2, Dao 2023, section 3.1 (arXiv:2307.08691); grouped-query attention,
Ainslie et al. 2023 (arXiv:2305.13245).
"""

import torch

from services.attention_worker.page_store import PageStore
from services.attention_worker.plan import AttentionPlan, Block

_TINY = 1e-30
"""Less than any sum of exponentials below their largest."""


def attend(
    store: PageStore, layer: int, plan: AttentionPlan, window: int | None, queries: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Let the rows of a microbatch attend to what their requests have in the pages.

    Args:
        store: Holds the keys and values of the rows themselves already.
        layer: Index of the layer.
        plan: The microbatch's.
        window: A row sees its last `window` positions, its own included; None: all.
        queries: Rotated, in the order of the rows.

    Shapes:
        queries: [T, H, D] -> [T, H, D], and float32 [T, H], the logarithms of the sums of the
            exponentials of the scores
    """
    output = torch.empty_like(queries)
    log_sums = torch.empty(queries.shape[:2])
    for block in plan.blocks(window):
        tiles = _to_tiles(block, queries, store.shape.num_kv_heads)
        attended, sums = _attend_block(store, layer, block, plan.run_length, tiles)
        attended = attended.permute(0, 2, 1, 3, 4)[block.tiles, block.offsets]  # [k, G, H/G, D]
        output[block.rows] = attended.flatten(1, 2).to(output.dtype)
        sums = sums.permute(0, 2, 1, 3)[block.tiles, block.offsets]  # [k, G, H/G]
        log_sums[block.rows] = sums.flatten(1)
    return output, log_sums


def _to_tiles(block: Block, queries: torch.Tensor, num_kv_heads: int) -> torch.Tensor:
    """Lay a block's rows out by query tile and KV head, scaled.

    Shapes:
        queries: [T, H, D] -> [n, G, height, H/G, D]
    """
    _, num_heads, head_size = queries.shape
    grouped = (num_kv_heads, num_heads // num_kv_heads, head_size)
    tiles = torch.zeros(block.num_tiles, block.height, *grouped)
    scaled = queries[block.rows].float() * head_size**-0.5
    tiles[block.tiles, block.offsets] = scaled.unflatten(1, grouped[:2])
    return tiles.permute(0, 2, 1, 3, 4).contiguous()


def _attend_block(
    store: PageStore, layer: int, block: Block, run_length: int, queries: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Run all key tiles past the query tiles of one block.

    The running maximum begins at a finite number, so that a tile whose keys are all hidden from a
    row adds zeros to its sums and changes no bit.

    Shapes:
        queries: [n, G, height, H/G, D] -> the same, and the logarithms of the sums, without D
    """
    num_kv_heads = store.shape.num_kv_heads
    rows = queries.flatten(2, 3).flatten(0, 1)  # [n * G, height * H/G, D]
    output = torch.zeros_like(rows)
    total = torch.zeros_like(rows[..., :1])
    maximum = torch.full_like(total, torch.finfo(torch.float32).min)
    for step in block.steps:
        keys, values = store.gather(layer, step.runs, run_length)  # [m * G, KEY_TILE, D]
        active = slice(len(keys))
        scores = _multiply(rows[active], keys.transpose(1, 2))
        by_tile = scores.view(-1, num_kv_heads, *queries.shape[2:4], scores.shape[-1])
        hidden = step.hidden[:, None, :, None, :]
        by_tile[step.first_masked :].masked_fill_(hidden, -torch.inf)
        peak = torch.maximum(maximum[active], scores.amax(-1, keepdim=True))
        decay = (maximum[active] - peak).exp_()
        weights = scores.sub_(peak).exp_()
        total[active] = total[active] * decay + weights.sum(-1, keepdim=True)
        output[active].mul_(decay).add_(_multiply(weights, values))
        maximum[active] = peak
    log_sums = (maximum + total.log()).view(queries.shape[:-1])
    # A local row whose window ends with its chunk sees nothing here.
    return output.div_(total.clamp_(min=_TINY)).view(queries.shape), log_sums


def _multiply(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Multiply matrix by matrix, with bits that do not depend on how many there are.

    A lone product is cut up among threads, and then its bits depend on their number; two or more
    go to one thread each (measured with MKL, 1 to 16 threads).
    """
    if len(left) == 1:
        return torch.bmm(left.repeat(2, 1, 1), right.repeat(2, 1, 1))[:1]
    return torch.bmm(left, right)
