"""A config is read in all its spellings, or refused in one line."""

import json
from dataclasses import replace

import pytest

from common.errors import ModelRefused
from common.model_spec import read_model_spec, resolve_model
from common.rope_spec import LinearScaling, Llama3Scaling, RopeSpec, YarnScaling

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 100,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 128,
    "max_position_embeddings": 512,
    "torch_dtype": "bfloat16",
    "bos_token_id": 1,
    "eos_token_id": 2,
}
QWEN2 = LLAMA | {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]}
QWEN3 = LLAMA | {"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"]}
MISTRAL = LLAMA | {"model_type": "mistral", "architectures": ["MistralForCausalLM"]}
LLAMA3_ROPE = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
YARN = {"factor": 4.0, "original_max_position_embeddings": 128}


@pytest.fixture
def read(tmp_path):
    def read_config(config):
        (tmp_path / "config.json").write_text(json.dumps(config))
        return read_model_spec(tmp_path)

    return read_config


def test_the_numbers_are_those_of_the_config(read):
    spec = read(LLAMA)

    assert (spec.num_layers, spec.hidden_size, spec.intermediate_size) == (3, 64, 100)
    assert (spec.num_heads, spec.num_kv_heads, spec.head_size) == (4, 2, 16)
    assert (spec.query_size, spec.kv_size, spec.qkv_size) == (64, 32, 128)
    assert (spec.vocab_size, spec.max_model_len, spec.rms_norm_eps) == (128, 512, 1e-6)
    assert (spec.dtype, spec.bos_token_id, spec.eos_token_ids) == ("bf16", 1, (2,))
    assert spec.rope == RopeSpec(theta=10_000.0)


def test_families_differ_in_bias_norm_and_head_size(read):
    specs = {"llama": read(LLAMA), "qwen2": read(QWEN2), "qwen3": read(QWEN3)}

    assert [spec.qkv_bias for spec in specs.values()] == [False, True, False]
    assert [spec.output_bias for spec in specs.values()] == [False, False, False]
    assert [spec.qk_norm for spec in specs.values()] == [False, False, True]
    assert [spec.head_size for spec in specs.values()] == [16, 16, 128]


@pytest.mark.parametrize(
    ("config", "windows"),
    [
        (MISTRAL, (4096,) * 3),
        (MISTRAL | {"sliding_window": 16}, (16,) * 3),
        (MISTRAL | {"sliding_window": None}, (None,) * 3),
        (LLAMA | {"sliding_window": 16}, (None,) * 3),
        (QWEN2 | {"sliding_window": 16}, (None,) * 3),
        (
            QWEN2 | {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 2},
            (None, None, 16),
        ),
        (
            QWEN3
            | {"use_sliding_window": True, "sliding_window": 16}
            | {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"]},
            (16, None, 16),
        ),
    ],
)
def test_windows_are_told_per_layer(read, config, windows):
    assert read(config).sliding_windows == windows


@pytest.mark.parametrize(
    ("settings", "rope", "max_model_len"),
    [
        ({"rope_type": "default"}, RopeSpec(theta=5e5), 512),
        ({"type": "dynamic", "factor": 2.0}, RopeSpec(theta=5e5), 512),
        (
            {"type": "linear", "factor": 4},
            RopeSpec(theta=5e5, scaling=LinearScaling(factor=4.0)),
            2048,
        ),
        (
            {"rope_type": "llama3", **LLAMA3_ROPE, "original_max_position_embeddings": 64},
            RopeSpec(theta=5e5, scaling=Llama3Scaling(**LLAMA3_ROPE, original_max_len=64)),
            512,
        ),
        (
            {"rope_type": "yarn", **YARN},
            RopeSpec(
                theta=5e5,
                scaling=YarnScaling(
                    factor=4.0,
                    original_max_len=128,
                    beta_fast=32.0,
                    beta_slow=1.0,
                    attention_factor=1.138629436111989,
                    truncate=True,
                ),
            ),
            512,
        ),
    ],
)
def test_both_spellings_of_rope_mean_the_same(read, settings, rope, max_model_len):
    older = read(LLAMA | {"rope_theta": 5e5, "rope_scaling": settings})

    newer = read(LLAMA | {"rope_parameters": {**settings, "rope_theta": 5e5}})

    assert older == newer
    assert newer.rope == rope
    assert newer.max_model_len == max_model_len


def test_yarn_takes_its_magnitude_from_both_scales(read):
    settings = {"rope_type": "yarn", **YARN, "mscale": 1.0, "mscale_all_dim": 1.0}

    spec = read(LLAMA | {"rope_scaling": settings})

    assert isinstance(spec.rope.scaling, YarnScaling)
    assert spec.rope.scaling.attention_factor == 1.0


def test_both_spellings_of_dtype_mean_the_same(read):
    spellings = [{"torch_dtype": "float16"}, {"torch_dtype": None, "dtype": "float16"}]

    specs = [read(LLAMA | spelling) for spelling in spellings]

    assert specs[0] == specs[1]
    assert specs[0].dtype == "fp16"


def test_end_tokens_of_the_generation_config_count_too(read, tmp_path):
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [7, 2, 9]}')

    assert read(LLAMA).eos_token_ids == (2, 7, 9)


def test_a_model_may_have_no_special_tokens(read):
    spec = read(LLAMA | {"eos_token_id": None, "bos_token_id": None})

    assert (spec.eos_token_ids, spec.bos_token_id) == ((), None)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"model_type": "gemma3"}, "model_type gemma3 is not served, only llama, mistral"),
        ({"model_type": None}, "model_type missing is not served"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "only LlamaForCausalLM is served"),
        (
            {"quantization_config": {"quant_method": "fp8", "bits": 8}},
            r"fp8 with 8 bits .* is not served, only awq \(gemm\) and gptq with 4 bits",
        ),
        ({"hidden_act": "gelu"}, "hidden_act gelu is not served"),
        ({"rope_scaling": {"type": "longrope"}}, "type 'longrope' is not served"),
        ({"rope_scaling": {"type": "linear"}}, "rope_scaling: factor is missing"),
        ({"rope_scaling": [1]}, r"rope_scaling is \[1\], it must be an object"),
        ({"rope_parameters": {"full_attention": {"rope_theta": 1.0}}}, "differs by layer"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is not 1"),
        ({"rope_theta": 0}, "rope_theta is 0, it must be a positive number"),
        ({"hidden_size": None}, "hidden_size is null, it must be an integer of at least 1"),
        ({"num_hidden_layers": "3"}, 'num_hidden_layers is "3"'),
        ({"vocab_size": True}, "vocab_size is true"),
        ({"num_key_value_heads": 3}, "4 attention heads cannot share 3 key-value heads"),
        ({"head_dim": 15}, "head_dim 15 is odd"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings is .* it must be true or false"),
        ({"eos_token_id": ["</s>"]}, "eos_token_id is .* it must be a token id"),
        ({"dtype": "float64"}, "dtype float64 is not served"),
        ({"model_type": 5}, "model_type is 5, it must be a string"),
    ],
)
def test_a_model_that_cannot_be_served_is_refused_in_one_line(read, change, reason):
    with pytest.raises(ModelRefused, match=reason) as refused:
        read(LLAMA | change)

    assert "\n" not in str(refused.value)
    assert "config.json" in str(refused.value)


@pytest.mark.parametrize("kinds", [["full_attention"], ["chunked_attention"] * 3, "all"])
def test_layer_types_that_are_not_understood_are_refused(read, kinds):
    with pytest.raises(ModelRefused, match="layer_types must name"):
        read(QWEN2 | {"use_sliding_window": True, "layer_types": kinds})


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff"])
def test_a_damaged_config_is_refused(tmp_path, content):
    (tmp_path / "config.json").write_bytes(content)

    with pytest.raises(ModelRefused, match=r"config\.json is not"):
        read_model_spec(tmp_path)


def test_a_directory_without_config_is_refused(tmp_path):
    with pytest.raises(ModelRefused, match=r"config\.json cannot be read"):
        read_model_spec(tmp_path)


def test_fingerprints_tell_specs_apart(read):
    spec = read(LLAMA)

    assert spec.fingerprint() == read(LLAMA).fingerprint()
    assert len(spec.fingerprint()) == 16
    assert spec.fingerprint() != replace(spec, rope=RopeSpec(theta=1.0)).fingerprint()


def test_a_directory_is_its_own_model(tmp_path):
    assert resolve_model(str(tmp_path)) == tmp_path


@pytest.mark.parametrize("name", ["/no/such/model", "./model", "a/b/c", "bad..name"])
def test_what_is_neither_directory_nor_hub_id_is_refused(name):
    with pytest.raises(ModelRefused) as refused:
        resolve_model(name)

    assert "\n" not in str(refused.value)
