"""A layer stack with a plain dense attention around it gives what transformers gives."""

from collections.abc import Sequence
from functools import cache
from itertools import pairwise

import pytest
import torch
from torch.nn import functional

from common.model_spec import ModelSpec, read_model_spec
from services.layer_worker.checkpoint import Checkpoint
from services.layer_worker.layers import LayerStack
from services.layer_worker.native_row_math import choose_row_math
from services.layer_worker.row_math import RowMath, TorchRowMath
from services.layer_worker.weights import RangeWeights, WeightForm, load_range
from tests.support.checkpoints import (
    FAMILIES,
    NUM_LAYERS,
    VOCAB_SIZE,
    cached_checkpoint,
    make_checkpoint,
)

CPU = torch.device("cpu")


@cache
def spec_of(family: str) -> ModelSpec:
    return read_model_spec(cached_checkpoint(family)[0])


def stacks_of(
    family: str,
    *bounds: int,
    dtype: torch.dtype = torch.float32,
    row_math: RowMath | None = None,
) -> list[tuple[LayerStack, range]]:
    spec = spec_of(family)
    checkpoint = Checkpoint(cached_checkpoint(family)[0])
    return [
        (
            make_stack(
                spec,
                load_range(
                    checkpoint, spec, range(start, stop), WeightForm(dtype=dtype, device=CPU)
                ),
                row_math,
            ),
            range(start, stop),
        )
        for start, stop in pairwise(bounds)
    ]


def make_stack(spec: ModelSpec, weights: RangeWeights, row_math: RowMath | None) -> LayerStack:
    return LayerStack(spec, weights, row_math or choose_row_math(CPU, weights.dtype))


def attend(spec: ModelSpec, layer: int, qkv: torch.Tensor) -> torch.Tensor:
    """Dense causal attention of one sequence: [T, (H + 2G) D] -> [T, H D]."""
    heads = qkv.view(len(qkv), -1, spec.head_size).transpose(0, 1)  # [H + 2G, T, D]
    sizes = [spec.num_heads, spec.num_kv_heads, spec.num_kv_heads]
    queries, keys, values = heads.split(sizes)
    distance = torch.arange(len(qkv))[:, None] - torch.arange(len(qkv))  # [T, T]
    seen = (distance >= 0) & (distance < (spec.sliding_windows[layer] or len(qkv)))
    attended = functional.scaled_dot_product_attention(
        queries[None], keys[None], values[None], attn_mask=seen, enable_gqa=True
    )
    return attended[0].transpose(0, 1).flatten(1)


def full_forward(
    spec: ModelSpec, stacks: Sequence[tuple[LayerStack, range]], token_ids: torch.Tensor
) -> torch.Tensor:
    """Logits of every position of one sequence: [T] -> [T, V]."""
    positions = torch.arange(len(token_ids), dtype=torch.int32)
    hidden = stacks[0][0].embed(token_ids)
    for stack, layers in stacks:
        for layer in layers:
            qkv = stack.pre_attention(layer, hidden, positions)
            hidden = stack.post_attention(layer, attend(spec, layer, qkv), hidden)
    return stacks[-1][0].logits(hidden)


def prompt(num_tokens: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(num_tokens)
    return torch.randint(VOCAB_SIZE, (num_tokens,), generator=generator, dtype=torch.int32)


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def family(request: pytest.FixtureRequest) -> str:
    cached_checkpoint(request.param)
    return request.param


@pytest.mark.parametrize("num_tokens", [1, 7, 100])
def test_logits_are_those_of_transformers(family, num_tokens):
    token_ids = prompt(num_tokens)

    logits = full_forward(spec_of(family), stacks_of(family, 0, NUM_LAYERS), token_ids)

    with torch.inference_mode():
        expected = cached_checkpoint(family)[1](token_ids[None].long()).logits[0]
    assert (logits - expected).abs().max() < 1e-4
    assert expected.std() > 0.1, "the comparison must be about something"


@pytest.mark.parametrize("bounds", [(0, 2, 4), (0, 1, 3, 4)])
def test_a_split_into_ranges_changes_no_bit(family, bounds):
    token_ids = prompt(40)
    whole = full_forward(spec_of(family), stacks_of(family, 0, NUM_LAYERS), token_ids)

    split = full_forward(spec_of(family), stacks_of(family, *bounds), token_ids)

    assert torch.equal(split, whole)


def assert_rows_ignore_their_batch(stack: LayerStack, spec: ModelSpec) -> None:
    token_ids, positions = prompt(300), torch.arange(300, dtype=torch.int32)
    attention = torch.randn(300, spec.query_size, generator=torch.Generator().manual_seed(0))
    attention = attention.to(stack.dtype)

    def visit(start: int, stop: int) -> tuple[torch.Tensor, ...]:
        hidden = stack.embed(token_ids[start:stop])
        qkv = stack.pre_attention(0, hidden, positions[start:stop])
        after = stack.post_attention(0, attention[start:stop], hidden)
        return qkv, after, stack.logits(after)

    whole = visit(0, 300)
    for num_rows in (1, 5, 17, 40):
        for start in range(0, 300 - num_rows, 41):
            part = visit(start, start + num_rows)
            for few, all_rows in zip(part, whole, strict=True):
                assert torch.equal(few, all_rows[start : start + num_rows])


@pytest.mark.parametrize("row_math", [None, TorchRowMath()], ids=["chosen", "torch"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["llama_bias", "qwen3"])
def test_a_rows_bits_do_not_depend_on_its_batch(name, dtype, row_math):
    [(stack, _)] = stacks_of(name, 0, NUM_LAYERS, dtype=dtype, row_math=row_math)

    assert_rows_ignore_their_batch(stack, spec_of(name))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_rows_bits_do_not_depend_on_how_threads_share_it(tmp_path, dtype):
    make_checkpoint(tmp_path, "llama2", hidden_size=256, intermediate_size=1000)
    spec = read_model_spec(tmp_path)
    weights = load_range(
        Checkpoint(tmp_path), spec, range(NUM_LAYERS), WeightForm(dtype=dtype, device=CPU)
    )
    num_threads = torch.get_num_threads()
    torch.set_num_threads(7)  # no divisor of rows times columns: threads meet inside a row

    try:
        assert_rows_ignore_their_batch(make_stack(spec, weights, None), spec)
    finally:
        torch.set_num_threads(num_threads)


def test_stages_return_contiguous_rows_and_leave_their_arguments_alone():
    [(stack, _)] = stacks_of("qwen3", 0, NUM_LAYERS)
    hidden, positions = stack.embed(prompt(3)), torch.arange(3, dtype=torch.int32)
    before = hidden.clone()

    qkv = stack.pre_attention(2, hidden, positions)
    after = stack.post_attention(2, torch.ones(3, spec_of("qwen3").query_size), hidden)

    assert qkv.is_contiguous()
    assert after.is_contiguous()
    assert qkv.shape == (3, spec_of("qwen3").qkv_size)
    assert torch.equal(hidden, before)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_visit_in_one_go_gives_the_bits_of_its_two_stages(family):
    [(stack, _)] = stacks_of(family, 0, NUM_LAYERS)
    hidden, positions = stack.embed(prompt(20)), torch.arange(20, dtype=torch.int32)
    attention = torch.randn(20, stack.spec.query_size, generator=torch.Generator().manual_seed(0))

    residual, qkv = stack.advance(0, attention, hidden, positions)

    expected = stack.post_attention(0, attention, hidden)
    assert torch.equal(residual, expected)
    assert torch.equal(qkv, stack.pre_attention(1, expected, positions))


def test_bfloat16_weights_stay_near_float32():
    token_ids = prompt(50)
    expected = full_forward(spec_of("llama31"), stacks_of("llama31", 0, 4), token_ids)

    logits = full_forward(
        spec_of("llama31"), stacks_of("llama31", 0, 4, dtype=torch.bfloat16), token_ids
    )

    assert logits.dtype == torch.float32
    assert (logits - expected).norm() / expected.norm() < 0.03
