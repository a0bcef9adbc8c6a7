"""That a GPU computes what the processor does."""

from collections.abc import Iterator
from itertools import product
from typing import Any, Final

import numpy as np
import torch

from benchmarks.gpu.rig import Rig, error_of, go_through
from common.messages import Tensor
from services.attention_worker.cache_shape import CacheShape
from services.attention_worker.engine import engine_type
from services.attention_worker.machine import Kernel, Machine
from services.attention_worker.torch_tensor import from_torch, to_torch
from services.layer_worker.native_row_math import choose_row_math
from services.layer_worker.packed import Int4Linear, PackedWeight, fits_int4
from services.layer_worker.quantized import choose_linear, quantize_weight

_TOLERANCE: Final = 0.02
"""Of bf16, as an error over the norm of what is right."""
_HEADS, _KV_HEADS, _HEAD_SIZE = 8, 2, 64
_PROMPT, _PAGE_SIZE = 200, 64


def check_logits(rig: Rig) -> Iterator[dict[str, Any]]:
    """Compare logits, at sizes that are captured and at one that is not."""
    right = rig.on_cpu()
    found = rig.load(rig.device, torch.bfloat16, rig.few_layers())
    for num_rows in (1, 64, 300):
        tokens = [number % right.spec.vocab_size for number in range(num_rows)]
        error = error_of(go_through(found, tokens), go_through(right, tokens))
        yield {"rows": num_rows, "error": error, "met": error <= _TOLERANCE}


def check_attention(rig: Rig) -> Iterator[dict[str, Any]]:
    """Compare attention on pages with that on the processor: a prompt, then one more token."""
    shape = CacheShape(
        num_layers=1,
        num_kv_heads=_KV_HEADS,
        head_size=_HEAD_SIZE,
        page_size=_PAGE_SIZE,
        dtype="bf16",
    )
    qkv = torch.randn(_PROMPT + 1, (_HEADS + 2 * _KV_HEADS) * _HEAD_SIZE).bfloat16()
    kernels: tuple[Kernel, ...] = ("gather",) if rig.is_dry else ("gather", "triton")
    for kernel, window in product(kernels, (None, 70)):
        right = _attend(shape, "torch", "cpu", qkv, window)
        found = _attend(shape, kernel, rig.name, qkv, window)
        error = error_of(found, right)
        yield {"kernel": kernel, "window": window, "error": error, "met": error <= _TOLERANCE}


def _attend(
    shape: CacheShape, kernel: Kernel, device: str, qkv: torch.Tensor, window: int | None
) -> torch.Tensor:
    machine = Machine(instruction_set=kernel, num_threads=1, device=device)
    engine = engine_type(machine)(machine, shape, 8, _HEADS, (window,))
    pages = np.arange(-(-len(qkv) // _PAGE_SIZE), dtype=np.int32)

    def advance(start: int, stop: int) -> Tensor:
        entries = np.array([(0, start, stop - start, len(pages), _PROMPT, 0)], np.int32)
        return engine.attend(0, entries, pages, from_torch(qkv[start:stop]))

    return torch.cat([to_torch(advance(0, _PROMPT)), to_torch(advance(_PROMPT, len(qkv)))])


def check_int8(rig: Rig) -> Iterator[dict[str, Any]]:
    """Compare a product with weights of 8 bits with that of what they stand for."""
    place = rig.device.place
    make = choose_linear("w8a16", torch.bfloat16, place, choose_row_math(place, torch.bfloat16))
    weight = torch.randn(256, 512, device=place).bfloat16()
    layer = make(weight, None)
    numbers, scales = quantize_weight(weight)
    for num_rows in (16, 200, 300):
        rows = torch.randn(num_rows, 512, device=place).bfloat16()
        error = error_of(layer(rows), rows.float() @ (numbers * scales[:, None]).T)
        yield {"rows": num_rows, "error": error, "met": error <= _TOLERANCE}


def check_int4(rig: Rig) -> Iterator[dict[str, Any]]:
    """Compare a product with weights of 4 bits with that of what they stand for."""
    place = rig.device.place
    num_outputs, num_inputs, group = 256, 512, 128
    weight = PackedWeight(
        numbers=torch.randint(0, 16, (num_outputs, num_inputs), dtype=torch.uint8, device=place),
        scales=torch.rand(num_outputs, num_inputs // group, device=place) * 0.01 + 0.001,
        zeros=torch.randint(1, 15, (num_outputs, num_inputs // group), device=place).float(),
        groups=torch.arange(num_inputs, device=place) // group,
    )
    assert fits_int4(weight, torch.bfloat16), "the shape is one that kernels take"
    layer = Int4Linear(weight, None, torch.bfloat16)
    for num_rows in (16, 300):
        rows = torch.randn(num_rows, num_inputs, device=place).bfloat16()
        error = error_of(layer(rows), rows.float() @ weight.restore(torch.float32).T)
        yield {"rows": num_rows, "error": error, "met": error <= _TOLERANCE}
