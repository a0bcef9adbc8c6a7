"""The experts of a model are read in all their spellings, or refused in one line."""

import pytest

from common.config_json import ConfigJson
from common.errors import ModelRefused
from common.moe_spec import read_moe_spec

MIXTRAL = {"num_local_experts": 4, "num_experts_per_tok": 2, "intermediate_size": 100}
QWEN3_MOE = {"num_experts": 6, "num_experts_per_tok": 3, "moe_intermediate_size": 40}


def read(family, fields):
    return read_moe_spec(ConfigJson("config.json", fields), family, num_layers=4)


def test_a_dense_family_has_no_experts():
    assert read("llama", MIXTRAL) is None


def test_every_layer_of_mixtral_has_experts_of_the_models_inner_size():
    spec = read("mixtral", MIXTRAL)

    assert (spec.layers, spec.num_experts, spec.num_chosen) == ((0, 1, 2, 3), 4, 2)
    assert (spec.intermediate_size, spec.normalized) == (100, True)


@pytest.mark.parametrize(
    ("change", "layers"),
    [
        ({}, (0, 1, 2, 3)),
        ({"decoder_sparse_step": 2}, (1, 3)),
        ({"mlp_only_layers": [0, 2]}, (1, 3)),
        ({"decoder_sparse_step": 2, "mlp_only_layers": [3]}, (1,)),
    ],
)
def test_some_layers_of_qwen3_moe_may_be_dense(change, layers):
    assert read("qwen3_moe", QWEN3_MOE | change).layers == layers


def test_the_number_of_experts_has_two_names():
    renamed = {"num_local_experts": 6, "num_experts_per_tok": 3, "moe_intermediate_size": 40}

    assert read("qwen3_moe", renamed) == read("qwen3_moe", QWEN3_MOE)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"num_experts_per_tok": 7}, "cannot go through 7 of 6 experts"),
        ({"num_experts": 0}, "num_experts is 0"),
        ({"mlp_only_layers": 1}, "mlp_only_layers is not a list"),
    ],
)
def test_damaged_experts_are_refused(change, reason):
    with pytest.raises(ModelRefused, match=reason):
        read("qwen3_moe", QWEN3_MOE | change)
