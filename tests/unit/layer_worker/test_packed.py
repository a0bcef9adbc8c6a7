"""Checkpoints in 4 bits are what they stand for, unpacked or not."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from common.errors import ModelRefused
from common.model_spec import read_model_spec
from services.layer_worker.checkpoint import Checkpoint
from services.layer_worker.layers import LayerStack
from services.layer_worker.linear import MIN_ROWS
from services.layer_worker.native_row_math import choose_row_math
from services.layer_worker.packed import Int4Linear, PackedWeight, fits_int4, fuse
from services.layer_worker.weights import LayerWeights, WeightForm, load_range
from tests.support.checkpoints import NUM_LAYERS
from tests.support.packed_checkpoints import METHODS, make_packed

CPU = torch.device("cpu")


def load(directory: Path, *, dtype: torch.dtype = torch.float32, keep_packed: bool = False):
    spec = read_model_spec(directory)
    layers = range(NUM_LAYERS)
    weights = load_range(
        Checkpoint(directory),
        spec,
        layers,
        WeightForm(dtype=dtype, device=CPU, keep_packed=keep_packed),
    )
    return LayerStack(spec, weights, choose_row_math(CPU, dtype)), weights


def logits_of(stack: LayerStack) -> torch.Tensor:
    """Let rows through all layers, their own values in place of attention."""
    places = torch.arange(MIN_ROWS, dtype=torch.int32)
    hidden = stack.embed(places)
    for layer in range(NUM_LAYERS):
        qkv = stack.pre_attention(layer, hidden, places)
        hidden = stack.post_attention(layer, qkv[:, : stack.spec.query_size], hidden)
    return stack.logits(hidden)


def linears_of(layer: LayerWeights) -> list[object]:
    return [layer.qkv, layer.output, layer.mlp.gate_up, layer.mlp.down]


@pytest.mark.parametrize("method", METHODS)
def test_a_packed_checkpoint_is_to_the_bit_what_it_stands_for(tmp_path, method):
    packed, plain = make_packed(tmp_path, "qwen2", method)

    found, expected = (logits_of(load(directory)[0]) for directory in (packed, plain))

    assert torch.equal(found, expected)


def test_experts_are_unpacked_and_their_routers_are_not(tmp_path):
    packed, plain = make_packed(tmp_path, "mixtral", "awq")

    found, expected = (logits_of(load(directory)[0]) for directory in (packed, plain))

    assert torch.equal(found, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("method", METHODS)
def test_weights_that_stay_in_4_bits_give_nearly_the_same(tmp_path, method, dtype):
    packed, plain = make_packed(tmp_path, "qwen2", method)

    stack, weights = load(packed, dtype=dtype, keep_packed=True)
    found = logits_of(stack)

    expected = logits_of(load(plain)[0])
    assert all(isinstance(each, Int4Linear) for each in linears_of(weights.layers[0]))
    tolerance = 0.02 if dtype == torch.bfloat16 else 0.002
    assert (found - expected).norm() / expected.norm() < tolerance


def test_a_rows_bits_in_4_bits_do_not_depend_on_its_batch(tmp_path):
    packed, _ = make_packed(tmp_path, "llama3", "gptq_act_order")
    _, weights = load(packed, dtype=torch.bfloat16, keep_packed=True)
    rows = torch.randn(100, 64, generator=torch.Generator().manual_seed(0)).bfloat16()

    together = weights.layers[0].qkv(rows)

    for start, stop in ((0, 16), (7, 40), (50, 100)):
        assert torch.equal(weights.layers[0].qkv(rows[start:stop]), together[start:stop])


def test_outputs_that_no_kernel_takes_are_multiplied_out():
    weight = PackedWeight(
        numbers=torch.full((24, 64), 9, dtype=torch.uint8),
        scales=torch.ones(24, 2),
        zeros=torch.full((24, 2), 8.0),
        groups=torch.arange(64) // 32,
    )

    assert not fits_int4(weight, torch.bfloat16)
    assert torch.equal(weight.restore(torch.bfloat16), torch.ones(24, 64).bfloat16())


def test_weights_whose_inputs_are_grouped_differently_are_not_fused():
    def part(groups: torch.Tensor) -> PackedWeight:
        numbers = torch.zeros(16, 64, dtype=torch.uint8)
        ones = torch.ones(16, 2)
        return PackedWeight(numbers=numbers, scales=ones, zeros=ones, groups=groups)

    groups = torch.arange(64) // 32

    assert fuse([part(groups), part(groups.flip(0))]) is None


@pytest.mark.parametrize(
    ("tensor", "reason"),
    [("qweight", "has no tensor .*q_proj.weight"), ("qzeros", "has no tensor .*q_proj.qzeros")],
)
def test_a_packed_tensor_that_is_missing_is_named(tmp_path, tensor, reason):
    packed, _ = make_packed(tmp_path, "llama3", "gptq")
    file = packed / "model.safetensors"
    tensors = load_file(file)
    del tensors[f"model.layers.1.self_attn.q_proj.{tensor}"]
    save_file(tensors, file)

    with pytest.raises(ModelRefused, match=reason):
        load(packed)
