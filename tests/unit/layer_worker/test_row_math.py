"""The kernels compute what torch computes, and every row alone."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

import tests.support.triton_interpreter  # noqa: F401 - for bf16
from services.layer_worker.native_row_math import (
    NativeRowMath,
    choose_row_math,
    kernel_path,
    load,
)
from services.layer_worker.row_math import LARGEST, ZERO_POINT, RowMath, TorchRowMath
from services.layer_worker.triton_row_math import TritonRowMath

CPU = torch.device("cpu")
TORCH = TorchRowMath()
NUM_HEADS, HEAD_SIZE, EPSILON = 5, 24, 1e-5
SHAPES = [(1, 8), (3, 37), (40, 1000)]
"""Rows and their width: with tails of every kind, and enough of them to be shared out."""

needs_kernels = pytest.mark.skipif(load() is None, reason="the kernels were not built")


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=str)
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return request.param


@pytest.fixture(params=[1, 3], ids="{} threads".format)
def threads(request: pytest.FixtureRequest) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


def native() -> NativeRowMath:
    run = load()
    assert run is not None
    return NativeRowMath(run)


def random(*size: int, dtype: torch.dtype) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(size))
    return (2.0 * torch.randn(*size, generator=generator)).to(dtype)


def assert_near(actual: torch.Tensor, expected: torch.Tensor) -> None:
    error = 1e-6 if expected.dtype == torch.float32 else 0.01  # torch rounds in between
    torch.testing.assert_close(actual, expected, rtol=error, atol=error)


@needs_kernels
@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize(("num_rows", "width"), SHAPES)
def test_norms_are_those_of_torch(num_rows, width, dtype):
    rows, weight = random(num_rows, width, dtype=dtype), random(width, dtype=dtype)

    normed = native().norm(rows, weight, EPSILON)

    assert_near(normed, TORCH.norm(rows, weight, EPSILON))


@needs_kernels
@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize(("num_rows", "width"), SHAPES)
def test_sums_and_their_norms_are_those_of_torch(num_rows, width, dtype):
    other, weight = random(num_rows, width, dtype=dtype), random(width, dtype=dtype)
    rows, expected_sums = (random(num_rows, width, dtype=dtype).flip(0) for _ in range(2))

    normed = native().add_norm(rows, other, weight, EPSILON)

    expected = TORCH.add_norm(expected_sums, other, weight, EPSILON)
    assert_near(normed, expected)
    assert torch.equal(rows, expected_sums)


@needs_kernels
@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize(("num_rows", "width"), SHAPES)
def test_gates_are_those_of_torch(num_rows, width, dtype):
    gate_up = 5 * random(num_rows, 2 * width, dtype=dtype)

    gated = native().gate(gate_up)

    assert_near(gated, TORCH.gate(gate_up))


@needs_kernels
def test_gates_take_every_number():
    gates = torch.tensor([[-1e4, -200.0, -87.5, -0.0, 87.5, 200.0, 1e38, float("nan")]])

    gated = native().gate(torch.cat((gates, torch.ones_like(gates)), dim=1))

    assert_near(gated[:, :-1], gates.clamp(min=0)[:, :-1])
    assert gated[0, -1].isnan()


@needs_kernels
@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize(("num_rows", "width"), SHAPES)
def test_rows_are_rounded_to_bytes_as_by_torch(num_rows, width, dtype):
    rows = random(num_rows, width, dtype=dtype)
    rows[0] = 0

    quantized, scales = native().quantize(rows)

    expected, expected_scales = TORCH.quantize(rows)
    assert torch.equal(quantized, expected)
    assert torch.equal(scales, expected_scales)


@needs_kernels
@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize(("num_rows", "width"), SHAPES)
def test_scaled_rows_are_those_of_torch(num_rows, width, dtype):
    rows, expected = (random(num_rows, width, dtype=dtype) for _ in range(2))
    scales = random(num_rows, dtype=torch.float32)

    native().scale_(rows, scales)

    TORCH.scale_(expected, scales)
    assert torch.equal(rows, expected)


@needs_kernels
@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize(("num_rows", "width"), SHAPES)
def test_restored_rows_are_those_of_torch(num_rows, width, dtype):
    numbers = torch.arange(num_rows * width, dtype=torch.int8).view(num_rows, width)
    scales = random(num_rows, dtype=torch.float32)

    restored = native().restore(numbers, scales, dtype)

    assert torch.equal(restored, TORCH.restore(numbers, scales, dtype))


@pytest.mark.parametrize("math", [TORCH, *([native()] if load() else [])], ids=type)
def test_a_row_is_its_bytes_times_its_scale(math):
    rows = random(20, 100, dtype=torch.float32)

    quantized, scales = math.quantize(rows)

    restored = (quantized.float() - ZERO_POINT) * scales.unsqueeze(1)
    assert ((restored - rows).abs() <= 0.5001 * scales.unsqueeze(1)).all()
    assert (quantized.max(), quantized.min() >= 1) == (ZERO_POINT + LARGEST, True)


def on_heads(change: Callable[[RowMath, torch.Tensor], None], math: RowMath, heads: Any) -> Any:
    changed = heads.clone()
    change(math, changed)
    return changed


@needs_kernels
@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("num_rows", [1, 7, 300])
@pytest.mark.parametrize("stage", ["norm", "rotate"])
def test_heads_are_those_of_torch_and_what_is_beside_them_stays(num_rows, stage, dtype):
    heads = random(num_rows, NUM_HEADS, HEAD_SIZE, dtype=dtype)
    positions = torch.arange(num_rows, dtype=torch.int32).flip(0)
    table = torch.rand(num_rows, HEAD_SIZE, generator=torch.Generator().manual_seed(0))
    weight = random(HEAD_SIZE, dtype=dtype)

    def change(math: RowMath, all_heads: torch.Tensor) -> None:
        if stage == "norm":
            math.norm_heads_(all_heads[:, 1:-1], weight, EPSILON)
        else:
            math.rotate_(all_heads[:, 1:-1], positions, table)

    changed = on_heads(change, native(), heads)

    assert_near(changed, on_heads(change, TORCH, heads))
    assert torch.equal(changed[:, 0], heads[:, 0])
    assert torch.equal(changed[:, -1], heads[:, -1])


@needs_kernels
def test_bf16_is_rounded_to_the_nearest_and_ties_to_even():
    weight = torch.ones(4, dtype=torch.bfloat16)
    rows = torch.tensor([[1.0, 3.0, 257.0, 511.0]], dtype=torch.float32)
    sums, other = rows.bfloat16(), torch.tensor([[0.0, 0.0, 1.0, 1.0]]).bfloat16()
    expected = sums + other

    native().add_norm(sums, other, weight, EPSILON)

    assert torch.equal(sums, expected)


def test_without_kernels_torch_computes(monkeypatch):
    monkeypatch.setattr("services.layer_worker.native_row_math.load", lambda: None)

    assert isinstance(choose_row_math(CPU, torch.float32), TorchRowMath)
    assert kernel_path(CPU) == "cpu-torch"


def test_what_the_kernels_do_not_know_is_left_to_torch():
    assert isinstance(choose_row_math(CPU, torch.float16), TorchRowMath)


def test_a_gpu_has_kernels_where_they_can_be_compiled(monkeypatch):
    gpu = torch.device("cuda")
    monkeypatch.setattr("services.layer_worker.native_row_math.can_compile", lambda: True)
    assert isinstance(choose_row_math(gpu, torch.bfloat16), TritonRowMath)
    assert kernel_path(gpu) == "cuda-triton"

    monkeypatch.setattr("services.layer_worker.native_row_math.can_compile", lambda: False)
    assert type(choose_row_math(gpu, torch.bfloat16)) is TorchRowMath
    assert kernel_path(gpu) == "cuda-torch"
