"""Who waits for weights is told how far they are."""

import pytest
import torch
from structlog.testing import capture_logs

from common.model_spec import read_model_spec
from services.layer_worker.checkpoint import Checkpoint
from services.layer_worker.loading import LoadProgress
from services.layer_worker.weights import WeightForm, load_range
from tests.support.checkpoints import NUM_LAYERS, cached_checkpoint


@pytest.mark.parametrize("family", ["llama32", "mixtral", "qwen3_bias"])
def test_all_bytes_of_a_range_are_loaded_in_the_end(family):
    directory, _ = cached_checkpoint(family)
    spec = read_model_spec(directory)
    form = WeightForm(dtype=torch.float32, device=torch.device("cpu"))

    with capture_logs() as lines:
        load_range(Checkpoint(directory), spec, range(NUM_LAYERS), form)

    (line,) = lines
    assert line["event"] == "weights loaded"
    assert line["loaded_bytes"] == line["total_bytes"] > 0


def test_a_line_is_written_now_and_then_while_weights_come():
    times = iter([0.0, 1.0, 3.0, 3.0, 3.0, 4.0, 6.0])
    progress = LoadProgress(100, times.__next__)

    with capture_logs() as lines:
        progress.add(10)
        progress.add(20)
        progress.add(30)
        progress.end()

    told = [(line["event"], line["loaded_bytes"], line["bytes_per_s"]) for line in lines]
    assert told == [("loading weights", 30, 10), ("weights loaded", 60, 10)]
