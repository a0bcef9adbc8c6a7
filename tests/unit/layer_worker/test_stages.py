"""What was captured at a few sizes gives what the stages give, whatever is left in the buckets."""

import pytest
import torch

from common.model_spec import read_model_spec
from services.layer_worker.checkpoint import Checkpoint
from services.layer_worker.device import CpuDevice
from services.layer_worker.layers import LayerStack
from services.layer_worker.row_math import TorchRowMath
from services.layer_worker.stages import BUCKETS, Rows, Stages
from services.layer_worker.weights import WeightForm, load_range
from tests.support.checkpoints import NUM_LAYERS, cached_checkpoint
from tests.support.device import LateDevice

CPU = torch.device("cpu")
NUM_POSITIONS = 64


def make_stack(family: str) -> LayerStack:
    directory, _ = cached_checkpoint(family)
    spec = read_model_spec(directory)
    layers = range(NUM_LAYERS)
    weights = load_range(
        Checkpoint(directory), spec, layers, WeightForm(dtype=torch.float32, device=CPU)
    )
    return LayerStack(spec, weights, TorchRowMath())


@pytest.fixture(scope="module")
def stack() -> LayerStack:
    return make_stack("llama3")


def rows(stack: LayerStack, num_rows: int, seed: int = 0):
    random = torch.Generator().manual_seed(seed)
    attention = torch.randn(num_rows, stack.spec.query_size, generator=random)
    residual = torch.randn(num_rows, stack.spec.hidden_size, generator=random)
    return attention, Rows(residual, torch.arange(num_rows, dtype=torch.int32) % NUM_POSITIONS)


def through_two_layers(stages: Stages, attention: torch.Tensor, rows: Rows):
    rows, _ = stages.advance(0, attention, rows)
    rows, qkv = stages.advance(1, attention, rows)
    return rows.residual, qkv


@pytest.mark.parametrize("num_rows", [1, 16, 17, 100, 256])
def test_rows_in_a_bucket_get_what_they_get_outside(stack, num_rows):
    device = LateDevice()
    stages, plain = Stages(stack, device), Stages(stack, CpuDevice())
    stages.advance(0, *rows(stack, num_rows, seed=1))  # leaves its rows in the bucket

    found = through_two_layers(stages, *rows(stack, num_rows))

    expected = through_two_layers(plain, *rows(stack, num_rows))
    assert all(torch.allclose(*each, atol=1e-5) for each in zip(found, expected, strict=True))
    assert device.num_replays == 3


def test_the_next_microbatch_does_not_change_what_an_earlier_one_was_given(stack):
    stages = Stages(stack, LateDevice())
    kept, qkv = stages.advance(0, *rows(stack, 20))
    first = [kept.residual, kept.positions, qkv]
    before = [each.clone() for each in first]

    stages.advance(0, *rows(stack, 20, seed=1))

    assert all(torch.equal(*each) for each in zip(first, before, strict=True))


def test_more_rows_than_the_largest_bucket_are_not_replayed(stack):
    device = LateDevice()
    stages = Stages(stack, device)

    kept, qkv = stages.advance(0, *rows(stack, BUCKETS[-1] + 1))

    assert len(kept.residual) == len(qkv) == BUCKETS[-1] + 1
    assert device.num_replays == 0


def test_experts_are_not_captured_since_what_they_do_depends_on_the_rows():
    device = LateDevice()
    stages = Stages(make_stack("mixtral"), device)

    stages.advance(0, *rows(make_stack("mixtral"), 4))

    assert device.num_replays == 0
