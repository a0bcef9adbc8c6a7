"""What is asked for with `--devices` becomes ranges, or is refused before anything starts."""

from pathlib import Path

import pytest

from common.errors import SettingsError
from common.model_spec import read_model_spec
from common.policy.ranges import Weights
from services.admin import device_split
from services.admin.device_split import split, weigh
from services.admin.options import make_plan
from services.router.config import RouterSettings
from tests.support.checkpoints import cached_checkpoint
from tests.support.packed_checkpoints import make_packed

MODEL = Path(__file__).parents[3] / "examples/tiny/model"
LAYER_NUMBERS = 64 * 64 * 2 + 64 * 32 * 2 + 3 * 64 * 100
"""Of a tiny checkpoint: queries and outputs, keys and values, the MLP."""
NORMS = 2 * 64
ENDS = 128 * 64


@pytest.fixture
def probed(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Stand in for two GPUs, the second three times as fast; gives what was asked for."""
    asked: list[list[str]] = []

    def probe(devices: list[str]) -> list[dict[str, object]]:
        asked.append(devices)
        speeds = {"cuda:0": 1e9, "cuda:1": 3e9}
        return [
            {"device": name, "memory_bytes": 10**9, "bytes_per_s": speed}
            for name, speed in speeds.items()
        ]

    monkeypatch.setattr(device_split, "_probe", probe)
    return asked


@pytest.mark.parametrize(
    ("dtype", "quantization", "number_bytes", "layer_number_bytes"),
    [("fp32", "none", 4, 4), ("bf16", "none", 2, 2), ("bf16", "w8a16", 2, 1)],
)
def test_weights_are_weighed_as_they_are_computed_with(
    dtype: str, quantization: str, number_bytes: int, layer_number_bytes: int
) -> None:
    directory = cached_checkpoint("llama3")[0]
    settings = RouterSettings(dtype=dtype, quantization=quantization)

    weights = weigh(settings, directory, read_model_spec(directory))

    assert weights == Weights(
        layer_bytes=LAYER_NUMBERS * layer_number_bytes + NORMS * 4,
        first_bytes=ENDS * number_bytes,
        last_bytes=ENDS * number_bytes,
    )


def test_packed_weights_take_a_fraction_of_what_they_take_unpacked(tmp_path: Path) -> None:
    directory, _ = make_packed(tmp_path, "llama3", "awq")
    spec = read_model_spec(directory)

    packed, unpacked = (
        weigh(RouterSettings(quantization=each), directory, spec).layer_bytes
        for each in ("w4a16", "none")
    )

    assert 5 < unpacked / packed < 8


def test_layers_go_to_the_devices_by_their_speed(probed: list[list[str]]) -> None:
    plan = make_plan({"model": str(MODEL), "devices": "all", "device_kv_memory": "1MiB"})

    assert probed == [[]]
    assert plan.devices.names == ("cuda:0", "cuda:1")
    assert plan.devices.kv_bytes == 1 << 20
    assert (plan.layer_workers, plan.router["layer_counts"]) == (2, "1,3")


def test_devices_are_asked_for_by_name(probed: list[list[str]]) -> None:
    make_plan({"model": str(MODEL), "devices": "cuda:0, cuda:1"})

    assert probed == [["cuda:0", "cuda:1"]]


def test_memory_for_pages_without_devices_is_refused() -> None:
    with pytest.raises(SettingsError, match="--device-kv-memory is for --devices"):
        make_plan({"model": str(MODEL), "device_kv_memory": "1MiB"})


def test_all_devices_where_there_is_none_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_split, "_probe", lambda devices: [])

    with pytest.raises(SettingsError, match="there are no GPUs here"):
        split("all", RouterSettings(), MODEL, read_model_spec(MODEL), 0)


@pytest.mark.slow
def test_this_machines_processor_can_be_probed_and_split() -> None:
    names, counts = split("cpu,cpu", RouterSettings(), MODEL, read_model_spec(MODEL), 0)

    assert names == ("cpu", "cpu")
    assert sum(counts) == 4


@pytest.mark.slow
def test_a_device_that_is_not_there_is_refused_in_one_line() -> None:
    with pytest.raises(SettingsError, match="--devices cuda:7: "):
        split("cuda:7", RouterSettings(), MODEL, read_model_spec(MODEL), 0)
