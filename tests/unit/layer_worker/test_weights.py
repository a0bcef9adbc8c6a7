"""A range holds its own layers, fused, and what stands at its ends."""

import pytest
import torch

from common.errors import ModelRefused
from common.model_spec import read_model_spec
from services.layer_worker.checkpoint import Checkpoint
from services.layer_worker.linear import MIN_ROWS, Linear, pad_rows
from services.layer_worker.weights import WeightForm, load_range
from tests.support.checkpoints import cached_checkpoint

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("start", "stop", "ends"),
    [(0, 1, (True, False)), (1, 3, (False, False)), (3, 4, (False, True))],
)
def test_only_the_end_ranges_hold_embedding_and_classifier(start, stop, ends):
    directory, _ = cached_checkpoint("llama32")
    spec = read_model_spec(directory)

    weights = load_range(
        Checkpoint(directory), spec, range(start, stop), WeightForm(dtype=torch.float32, device=CPU)
    )

    assert len(weights.layers) == stop - start
    assert (weights.embedding is not None, weights.classifier is not None) == ends
    assert (weights.final_norm is not None) == ends[1]


def test_a_range_reads_no_tensor_of_another():
    directory, _ = cached_checkpoint("qwen3")
    spec = read_model_spec(directory)
    names = []

    class Recording(Checkpoint):
        def tensor(self, name):
            names.append(name)
            return super().tensor(name)

    load_range(Recording(directory), spec, range(1, 3), WeightForm(dtype=torch.float32, device=CPU))

    assert {name.split(".")[2] for name in names} == {"1", "2"}
    assert len(names) == len(set(names)) == 2 * 11


def test_a_wrong_tensor_is_refused_before_anything_is_read():
    directory, _ = cached_checkpoint("llama2")
    spec = read_model_spec(cached_checkpoint("qwen3")[0])

    with pytest.raises(ModelRefused, match=r"q_proj\.weight is \[64, 64\].* it is \[128, 64\]"):
        load_range(
            Checkpoint(directory), spec, range(4), WeightForm(dtype=torch.float32, device=CPU)
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_a_linear_layer_is_the_product_with_its_weight(dtype):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(24, 32, generator=generator).to(dtype)
    bias = torch.randn(24, generator=generator).to(dtype)
    rows = torch.randn(MIN_ROWS, 32, generator=generator).to(dtype)

    output = Linear(weight, bias)(rows)

    expected = rows.float() @ weight.float().T + bias.float()
    torch.testing.assert_close(output.float(), expected, rtol=0.02, atol=0.02)
    assert output.dtype == dtype


@pytest.mark.parametrize(("num_rows", "padded"), [(0, 16), (1, 16), (16, 16), (17, 17)])
def test_rows_are_padded_only_up_to_the_least(num_rows, padded):
    rows = torch.ones(num_rows, 3)

    result = pad_rows(rows)

    assert result.shape == (padded, 3)
    assert result.sum() == 3 * num_rows
