"""A checkpoint gives its tensors, or is refused in one line that names what is wrong."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from common.checkpoint_header import check_checkpoint, weights_fingerprint
from common.errors import ModelRefused
from common.model_spec import read_model_spec
from services.layer_worker.checkpoint import Checkpoint
from tests.support.checkpoints import cached_checkpoint, make_checkpoint

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"


@pytest.fixture
def sharded(tmp_path):
    make_checkpoint(tmp_path, "qwen2", max_shard_size="100KB")
    return tmp_path


def refusal(directory) -> str:
    """The line that refuses a checkpoint to services without torch and to a worker alike."""
    spec = read_model_spec(directory)
    with pytest.raises(ModelRefused) as early:
        check_checkpoint(directory, spec)
    with pytest.raises(ModelRefused) as late:
        Checkpoint(directory).check(spec, 0, spec.num_layers)
    assert str(early.value) == str(late.value)
    assert "\n" not in str(early.value)
    return str(early.value)


def edit(directory, change) -> None:
    tensors = load_file(directory / SINGLE)
    change(tensors)
    save_file(tensors, directory / SINGLE)


def test_every_tensor_of_a_sharded_checkpoint_is_found(sharded):
    _, model = cached_checkpoint("qwen2")

    checkpoint = Checkpoint(sharded)

    checkpoint.check(read_model_spec(sharded), 0, 4)
    assert len(list(sharded.glob("*.safetensors"))) > 2
    for name, expected in model.state_dict().items():
        if name != "lm_head.weight":
            assert torch.equal(checkpoint.tensor(name), expected)


def test_a_missing_shard_is_named(sharded):
    missing = sorted(sharded.glob("*.safetensors"))[1]
    missing.unlink()

    assert f"{missing} is missing" in refusal(sharded)


def test_a_truncated_file_is_named(sharded):
    shard = sorted(sharded.glob("*.safetensors"))[0]
    shard.write_bytes(shard.read_bytes()[:-100])

    assert str(shard) in refusal(sharded)


@pytest.mark.parametrize(
    "content",
    [b"", b"abc", b"\x80\x02pickle" * 9, (2).to_bytes(8, "little") + b"[]", bytes(8), b"\xff" * 64],
)
def test_a_file_that_is_not_safetensors_is_named(tmp_path, content):
    make_checkpoint(tmp_path, "llama2")
    (tmp_path / SINGLE).write_bytes(content)

    line = refusal(tmp_path)

    assert SINGLE in line or "no tensor" in line


def test_a_missing_tensor_is_named(tmp_path):
    make_checkpoint(tmp_path, "llama2")
    edit(tmp_path, lambda tensors: tensors.pop("model.layers.2.mlp.up_proj.weight"))

    assert "model.layers.2.mlp.up_proj.weight" in refusal(tmp_path)


def test_a_tensor_of_a_wrong_shape_is_named_with_both_shapes(tmp_path):
    make_checkpoint(tmp_path, "llama2")
    edit(tmp_path, lambda tensors: tensors.update({"model.norm.weight": torch.ones(63)}))

    assert "model.norm.weight is [63], by config.json it is [64]" in refusal(tmp_path)


def test_a_quantized_tensor_is_refused(tmp_path):
    make_checkpoint(tmp_path, "llama2")
    name = "model.layers.0.mlp.down_proj.weight"
    edit(tmp_path, lambda tensors: tensors.update({name: torch.ones(64, 100, dtype=torch.int8)}))

    assert f"{name} is I8" in refusal(tmp_path)


def test_pickled_weights_are_refused_with_what_to_do(tmp_path):
    make_checkpoint(tmp_path, "llama2")
    (tmp_path / SINGLE).rename(tmp_path / "pytorch_model.bin")

    line = refusal(tmp_path)

    assert "pytorch_model.bin" in line
    assert "save_pretrained" in line


def test_an_index_reaches_no_file_outside_its_directory(tmp_path):
    make_checkpoint(tmp_path / "model", "llama2")
    (tmp_path / "model" / SINGLE).rename(tmp_path / "outside.safetensors")
    (tmp_path / "model" / INDEX).write_text('{"weight_map": {"a": "../outside.safetensors"}}')

    assert "model/outside.safetensors is missing" in refusal(tmp_path / "model")


def test_a_tied_classifier_is_the_embedding_unless_there_is_one(tmp_path):
    directory, _ = cached_checkpoint("llama32")
    spec = read_model_spec(directory)
    untied, _ = cached_checkpoint("llama2")

    names = [Checkpoint(place).classifier_name(spec) for place in (directory, untied)]

    assert names == ["model.embed_tokens.weight", "lm_head.weight"]


def test_fingerprints_tell_weights_apart(tmp_path, sharded):
    make_checkpoint(tmp_path / "same", "llama2")
    make_checkpoint(tmp_path / "other", "llama2")
    edit(tmp_path / "other", lambda tensors: tensors["lm_head.weight"].mul_(2))

    original = weights_fingerprint(cached_checkpoint("llama2")[0])

    assert weights_fingerprint(tmp_path / "same") == original
    assert weights_fingerprint(tmp_path / "other") != original
    assert weights_fingerprint(sharded) != original
