"""A row goes through its own experts, whoever else does."""

import pytest
import torch

from services.layer_worker.linear import Linear
from services.layer_worker.mlp import ExpertMlp, GatedMlp
from services.layer_worker.native_row_math import choose_row_math
from services.layer_worker.row_math import TorchRowMath

WIDTH, INNER, NUM_EXPERTS, NUM_CHOSEN = 64, 96, 5, 2
CPU = torch.device("cpu")
DTYPES = (torch.float32, torch.bfloat16)


def linear(num_outputs, num_inputs, dtype):
    return Linear((torch.randn(num_outputs, num_inputs) / num_inputs**0.5).to(dtype))


def make_experts(dtype, *, normalized=True):
    torch.manual_seed(0)
    return ExpertMlp(
        router=linear(NUM_EXPERTS, WIDTH, dtype),
        experts=tuple(
            GatedMlp(gate_up=linear(2 * INNER, WIDTH, dtype), down=linear(WIDTH, INNER, dtype))
            for _ in range(NUM_EXPERTS)
        ),
        num_chosen=NUM_CHOSEN,
        normalized=normalized,
    )


@pytest.mark.parametrize("normalized", [True, False])
def test_a_row_is_the_weighted_sum_of_its_likeliest_experts(normalized):
    mlp, math = make_experts(torch.float32, normalized=normalized), TorchRowMath()
    rows = torch.randn(40, WIDTH)
    scores = mlp.router(rows).softmax(1)
    every = torch.stack([expert(rows, math) for expert in mlp.experts], dim=1)  # [T, E, d]

    found = mlp(rows, math)

    weights, chosen = scores.topk(NUM_CHOSEN, dim=1)
    if normalized:
        weights = weights / weights.sum(1, keepdim=True)
    picked = every.gather(1, chosen[:, :, None].expand(-1, -1, WIDTH))
    torch.testing.assert_close(found, (picked * weights[:, :, None]).sum(1))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_rows_bits_do_not_depend_on_its_company(dtype):
    mlp, math = make_experts(dtype), choose_row_math(CPU, dtype)
    rows = torch.randn(200, WIDTH).to(dtype)
    together = mlp(rows, math)

    for start, stop in ((0, 16), (7, 40), (100, 200)):
        assert torch.equal(mlp(rows[start:stop], math), together[start:stop])
