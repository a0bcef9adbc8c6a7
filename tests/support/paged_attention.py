"""Requests whose attention is computed by an engine, and by a dense reference."""

from collections.abc import Iterable, Sequence
from typing import get_args

import numpy as np
import torch

import tests.support.triton_interpreter  # noqa: F401 - for bf16
from services.attention_worker import native_library
from services.attention_worker.cache_shape import CacheShape
from services.attention_worker.config import InstructionSet
from services.attention_worker.engine import AttentionEngine, engine_type
from services.attention_worker.machine import Machine
from services.attention_worker.torch_tensor import from_torch, to_torch

_NATIVE = native_library.load()
KERNELS = [name for name in get_args(InstructionSet) if _NATIVE and _NATIVE.supports(name)]
"""Instruction sets that can be tested here."""


def make_engine(
    *,
    kernel: str = "torch",
    num_threads: int = 1,
    num_heads: int = 4,
    num_kv_heads: int = 2,
    head_size: int = 16,
    page_size: int = 16,
    num_pages: int = 64,
    dtype: str = "fp32",
    windows: Sequence[int | None] = (None,),
) -> AttentionEngine:
    shape = CacheShape(
        num_layers=len(windows),
        num_kv_heads=num_kv_heads,
        head_size=head_size,
        page_size=page_size,
        dtype=dtype,
    )
    machine = Machine(instruction_set=kernel, num_threads=num_threads)
    return engine_type(machine)(machine, shape, num_pages, num_heads, windows)


class PagedRequest:
    """A request with all of its q, k and v, that moves through an engine part by part."""

    def __init__(self, qkv: torch.Tensor, num_prompt: int, pages: Sequence[int]):
        self.qkv = qkv
        self.num_prompt = num_prompt
        self.pages = pages
        self.num_cached = 0


def random_qkv(
    num_rows: int, width: int, *, seed: int = 0, dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num_rows, width, generator=generator).to(dtype)


def advance(
    engine: AttentionEngine, moves: Iterable[tuple[PagedRequest, int]], layer: int = 0
) -> list[torch.Tensor]:
    """Take each request some tokens further in one microbatch; gives each one's output."""
    moves = list(moves)
    entries = np.array(
        [
            (index, request.num_cached, rows, len(request.pages), request.num_prompt, 0)
            for index, (request, rows) in enumerate(moves)
        ],
        dtype=np.int32,
    ).reshape(-1, 6)
    page_table = np.array([page for request, _ in moves for page in request.pages], dtype=np.int32)
    qkv = [request.qkv[request.num_cached :][:rows] for request, rows in moves]
    output = to_torch(engine.attend(layer, entries, page_table, from_torch(torch.cat(qkv))))
    for request, rows in moves:
        request.num_cached += rows
    return list(torch.split(output, [rows for _, rows in moves]))


def run_alone(
    engine: AttentionEngine, request: PagedRequest, chunks: Iterable[int]
) -> torch.Tensor:
    """Take a request through all its tokens, chunk by chunk, with nobody else in the batch."""
    return torch.cat([advance(engine, [(request, rows)])[0] for rows in chunks])


def dense_attention(
    qkv: torch.Tensor, num_heads: int, num_kv_heads: int, window: int | None = None
) -> torch.Tensor:
    """Attend in float64, all rows against all keys.

    Shapes:
        qkv: [T, (H + 2 G) D] -> [T, H D]
    """
    heads = [num_heads, num_kv_heads, num_kv_heads]
    split = torch.split(qkv.double().view(len(qkv), sum(heads), -1).transpose(0, 1), heads)
    group = num_heads // num_kv_heads
    queries, keys, values = split[0], *(part.repeat_interleave(group, 0) for part in split[1:])
    position = torch.arange(len(qkv))
    distance = position[:, None] - position
    hidden = (distance < 0) | (distance >= (window or len(qkv)))
    scores = queries @ keys.mT * queries.shape[-1] ** -0.5
    weights = scores.masked_fill(hidden, -torch.inf).softmax(-1)
    output: torch.Tensor = (weights @ values).transpose(0, 1).flatten(1)
    return output
