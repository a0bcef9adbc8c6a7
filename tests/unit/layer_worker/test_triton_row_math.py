"""The GPU's kernels compute what torch computes, shown by Triton's interpreter."""

import pytest
import torch

import tests.support.triton_interpreter  # noqa: F401 - for bf16
from services.layer_worker.quantized import WeightInt8Linear, quantize_weight
from services.layer_worker.row_math import TorchRowMath
from services.layer_worker.triton_linear import FusedInt8Linear
from services.layer_worker.triton_row_math import TritonRowMath

TORCH, TRITON = TorchRowMath(), TritonRowMath()
NUM_ROWS, WIDTH, EPSILON = 5, 37, 1e-5
NUM_HEADS, HEAD_SIZE, NUM_POSITIONS = 11, 24, 50
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 0.02}
"""The interpreter cuts off where a GPU rounds to the nearest."""


@pytest.fixture(params=TOLERANCE, ids=str)
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return request.param


def random(*size: int, dtype: torch.dtype) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(size))
    return torch.randn(*size, generator=generator).to(dtype)


def assert_near(found: torch.Tensor, expected: torch.Tensor) -> None:
    error = TOLERANCE[expected.dtype]
    torch.testing.assert_close(found, expected, rtol=error, atol=error)


def test_norms_are_those_of_torch(dtype):
    rows, weight = random(NUM_ROWS, WIDTH, dtype=dtype), random(WIDTH, dtype=dtype)

    assert_near(TRITON.norm(rows, weight, EPSILON), TORCH.norm(rows, weight, EPSILON))


def test_sums_and_their_norms_are_those_of_torch(dtype):
    other, weight = random(NUM_ROWS, WIDTH, dtype=dtype), random(WIDTH, dtype=dtype)
    sums, expected_sums = (random(NUM_ROWS, WIDTH, dtype=dtype).flip(0) for _ in range(2))

    normed = TRITON.add_norm(sums, other, weight, EPSILON)

    assert_near(normed, TORCH.add_norm(expected_sums, other, weight, EPSILON))
    assert_near(sums, expected_sums)


def test_heads_are_normed_and_rotated_in_place_and_others_left_alone(dtype):
    weight = random(HEAD_SIZE, dtype=dtype)
    positions = torch.tensor([0, 3, 49, 7, 7], dtype=torch.int32)
    table = random(NUM_POSITIONS, HEAD_SIZE, dtype=torch.float32)
    heads, expected = (random(NUM_ROWS, NUM_HEADS, HEAD_SIZE, dtype=dtype) for _ in range(2))

    for math, rows in ((TRITON, heads), (TORCH, expected)):
        math.norm_heads_(rows[:, 2:7], weight, EPSILON)
        math.rotate_(rows[:, :9], positions, table)

    assert_near(heads, expected)
    assert torch.equal(heads[:, 9:], expected[:, 9:])


@pytest.mark.parametrize("width", [1, WIDTH, 1500])
def test_gates_are_those_of_torch(width, dtype):
    gate_up = random(NUM_ROWS, 2 * width, dtype=dtype)

    assert_near(TRITON.gate(gate_up), TORCH.gate(gate_up))


def test_restored_weights_are_those_of_torch(dtype):
    numbers, scales = quantize_weight(random(NUM_ROWS, 1500, dtype=dtype))

    restored = TRITON.restore(numbers, scales, dtype)

    assert_near(restored, TORCH.restore(numbers, scales, dtype))


@pytest.mark.parametrize("num_rows", [1, 16, 33, 100, 300])
@pytest.mark.parametrize("has_bias", [True, False])
def test_products_with_int8_weights_are_those_of_restored_ones(num_rows, has_bias, dtype):
    weight, rows = random(70, 200, dtype=dtype), random(num_rows, 200, dtype=dtype)
    bias = random(70, dtype=dtype) if has_bias else None

    found = FusedInt8Linear(weight, bias)(rows)

    expected = WeightInt8Linear(weight, bias, row_math=TORCH)(rows)
    assert (found - expected).norm() / expected.norm() < TOLERANCE[dtype]
