"""Linear layers in int8 stay near the exact product, and treat every row alone."""

from collections.abc import Callable

import pytest
import torch

from common.errors import SettingsError
from services.layer_worker.linear import MIN_ROWS, Linear
from services.layer_worker.native_row_math import choose_row_math
from services.layer_worker.quantized import choose_linear, quantize_weight

CPU = torch.device("cpu")
DTYPES = (torch.float32, torch.bfloat16)
WIDTH, NUM_OUTPUTS, NUM_ROWS = 192, 96, 100

has_vnni = torch.cpu._is_vnni_supported()
QUANTIZATIONS = ["w8a16", *(["w8a8"] if has_vnni else [])]


def make_layer(
    quantization: str, dtype: torch.dtype
) -> tuple[Callable[[torch.Tensor], torch.Tensor], torch.Tensor, torch.Tensor]:
    """A layer, its weight and its bias."""
    generator = torch.Generator().manual_seed(0)
    weight = (torch.randn(NUM_OUTPUTS, WIDTH, generator=generator) / WIDTH**0.5).to(dtype)
    bias = torch.randn(NUM_OUTPUTS, generator=generator).to(dtype)
    make = choose_linear(quantization, dtype, CPU, choose_row_math(CPU, dtype))
    return make(weight, bias), weight, bias


def random_rows(dtype: torch.dtype) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(NUM_ROWS, WIDTH, generator=generator).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("quantization", QUANTIZATIONS)
def test_a_quantized_layer_is_near_the_exact_one(quantization, dtype):
    layer, weight, bias = make_layer(quantization, dtype)
    rows = random_rows(dtype)

    output = layer(rows)

    exact = rows.float() @ weight.float().T + bias.float()
    assert output.dtype == dtype
    assert (output - exact).norm() / exact.norm() < 0.012


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("quantization", QUANTIZATIONS)
def test_a_rows_bits_do_not_depend_on_its_batch(quantization, dtype):
    layer, _, _ = make_layer(quantization, dtype)
    rows = random_rows(dtype)

    together = layer(rows)

    for start, stop in ((0, MIN_ROWS), (7, 40), (50, NUM_ROWS)):
        assert torch.equal(layer(rows[start:stop]), together[start:stop])


@pytest.mark.skipif(not has_vnni, reason="this CPU has no VNNI")
def test_what_is_not_finite_stays_in_its_row():
    layer, _, _ = make_layer("w8a8", torch.bfloat16)
    rows = random_rows(torch.bfloat16)
    rows[3, 5], rows[9, 7] = float("nan"), float("inf")

    output = layer(rows)

    finite = output.isfinite().all(1)
    assert (~finite).nonzero().flatten().tolist() == [3, 9]


@pytest.mark.skipif(not has_vnni, reason="this CPU has no VNNI")
def test_a_row_of_zeros_gives_the_bias():
    layer, _, bias = make_layer("w8a8", torch.bfloat16)

    output = layer(torch.zeros(MIN_ROWS, WIDTH, dtype=torch.bfloat16))

    assert torch.equal(output, bias.expand(MIN_ROWS, -1))


def test_weights_are_whole_multiples_of_their_outputs_scale():
    weight = torch.tensor([[127.0, -63.5, 0.0], [0.0, 0.0, 0.0], [-2.54, 1.0, 0.02]])

    quantized, scales = quantize_weight(weight)

    assert quantized.tolist() == [[127, -64, 0], [0, 0, 0], [-127, 50, 1]]
    torch.testing.assert_close(scales, torch.tensor([1.0, 0.0, 0.02]))


def test_none_is_the_plain_layer():
    row_math = choose_row_math(CPU, torch.bfloat16)

    assert choose_linear("none", torch.bfloat16, CPU, row_math) is Linear


@pytest.mark.parametrize(
    ("device", "dtype", "vnni", "reason"),
    [
        ("cuda", torch.bfloat16, True, "a CPU with VNNI"),
        ("cpu", torch.bfloat16, False, "a CPU with VNNI"),
        ("cpu", torch.float16, True, "not with fp16"),
    ],
)
def test_int8_rows_are_refused_where_they_cannot_be_had(monkeypatch, device, dtype, vnni, reason):
    monkeypatch.setattr("torch.cpu._is_vnni_supported", lambda: vnni)

    with pytest.raises(SettingsError, match=reason):
        choose_linear("w8a8", dtype, torch.device(device), choose_row_math(CPU, dtype))
