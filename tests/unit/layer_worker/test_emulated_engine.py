"""The emulated engine: the shapes of the real one, a profile's durations, and no torch."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from common.errors import SettingsError
from common.ids import MicrobatchId
from common.messages import LayerRole, Tensor
from common.model_spec import ModelSpec, read_model_spec
from common.policy.profile import Profile
from common.runtime.emulation import EmulatedTime
from examples.profiles.roofline import PROFILES
from services.layer_worker.emulated_engine import EmulatedLayerEngine
from services.layer_worker.work import (
    Advance,
    Begin,
    End,
    LayerBegun,
    LoadRange,
    RangeEnded,
    RangeLoaded,
    TokensChosen,
    Work,
)
from tests.support.emulation import (
    ATTENTION_PROFILE,
    LAYER_PROFILE,
    NUM_LAYERS,
    SHAPE,
    write_config,
    write_profile,
)
from tests.support.step import entry, int32, layer_role, sampling_of

ROOT = Path(__file__).parents[3]
ID = MicrobatchId(1)
ENTRIES = int32([entry(1, 0, 5), entry(2, 3, 2, sample=False), entry(3, 9)])
"""Eight rows; the last one of two entries is sampled, at positions 4 and 9."""
SCALE = 2.0


@pytest.fixture
def spec(tmp_path: Path) -> ModelSpec:
    return read_model_spec(write_config(tmp_path / "model"))


def make_engine(spec: ModelSpec, profile: Profile = LAYER_PROFILE) -> EmulatedLayerEngine:
    return EmulatedLayerEngine(spec, profile, EmulatedTime(SCALE, sleep=lambda _: None))


def compute(spec: ModelSpec, role: LayerRole, work: Work) -> object:
    engine = make_engine(spec)
    assert engine.compute(LoadRange(role=role)) == RangeLoaded(role=role)
    return engine.compute(work)


def advance(layer: int, num_rows: int = 8) -> Advance:
    return Advance(microbatch_id=ID, layer=layer, carry=num_rows, attention=())


def end(num_rows: int = 8, *, alternatives: int | None = None, last: bool = True) -> End:
    ints = np.zeros((2, 5))
    ints[1, 1] = 0 if alternatives is None else 1 + alternatives
    return End(
        microbatch_id=ID,
        layer=NUM_LAYERS - 1,
        carry=num_rows,
        attention=(),
        entries=ENTRIES,
        sampling=sampling_of(2, ints=ints) if last else None,
    )


@pytest.mark.parametrize(
    "arrived", [int32(range(8)), Tensor.of(np.zeros((8, SHAPE.hidden_size), np.float32))]
)
def test_a_microbatch_enters_with_zeros_for_queries_keys_and_values(
    spec: ModelSpec, arrived: Tensor
) -> None:
    work = Begin(microbatch_id=ID, layer=0, entries=ENTRIES, arrived=arrived)

    begun = compute(spec, layer_role(0, 2, NUM_LAYERS, dtype="bf16"), work)

    assert isinstance(begun, LayerBegun)
    assert (begun.qkv.dtype, begun.qkv.shape) == ("bf16", (8, (4 + 2 * 2) * 16))
    assert begun.qkv.memory.nbytes == begun.qkv.size_bytes
    assert begun.carry == 8
    assert begun.engine_s == pytest.approx(SCALE * 0.008)


def test_a_visit_takes_what_comes_after_attention_and_before_the_next(spec: ModelSpec) -> None:
    begun = compute(spec, layer_role(0, 2, NUM_LAYERS), advance(0))

    assert isinstance(begun, LayerBegun)
    assert begun.carry == 8
    assert begun.engine_s == pytest.approx(SCALE * (0.08 + 0.008))


def test_hidden_rows_leave_for_the_next_range(spec: ModelSpec) -> None:
    ended = compute(spec, layer_role(0, 2, NUM_LAYERS), end(last=False))

    assert isinstance(ended, RangeEnded)
    assert (ended.hidden.dtype, ended.hidden.shape) == ("fp32", (8, SHAPE.hidden_size))
    assert ended.engine_s == pytest.approx(SCALE * 0.08)


def test_only_sampled_rows_take_time_at_the_end(spec: ModelSpec) -> None:
    chosen = compute(spec, layer_role(2, NUM_LAYERS, NUM_LAYERS), end())

    assert isinstance(chosen, TokensChosen)
    assert chosen.engine_s == pytest.approx(SCALE * (0.02 + 0.2))


def test_a_token_depends_on_its_position_and_ends_nothing(spec: ModelSpec) -> None:
    assert spec.eos_token_ids == (2,)

    chosen = compute(spec, layer_role(2, NUM_LAYERS, NUM_LAYERS), end())

    assert isinstance(chosen, TokensChosen)
    # Of 0, 1, 3, 4, 5, 6, 7 those for positions 4 and 9.
    assert chosen.tokens.numpy().tolist() == [5, 3]
    assert chosen.finite.numpy().tolist() == [1, 1]


@pytest.mark.parametrize(("alternatives", "width"), [(None, 0), (0, 0), (3, 3)])
def test_logprobs_have_the_width_that_is_asked_for(
    spec: ModelSpec, alternatives: int | None, width: int
) -> None:
    role = layer_role(2, NUM_LAYERS, NUM_LAYERS)

    chosen = compute(spec, role, end(alternatives=alternatives))

    assert isinstance(chosen, TokensChosen)
    assert chosen.logprobs.shape == (2,)
    assert chosen.top_tokens.shape == chosen.top_logprobs.shape == (2, width)


@pytest.mark.parametrize(
    ("profile", "message"),
    [
        (ATTENTION_PROFILE, "has no times of layers"),
        (PROFILES["t4-llama-3-8b"], "hidden_size 4096, this one has 64"),
    ],
)
def test_a_profile_of_something_else_is_refused(
    spec: ModelSpec, profile: Profile, message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        make_engine(spec, profile)


@pytest.mark.slow
@pytest.mark.parametrize("service", ["layer_worker", "attention_worker"])
def test_an_emulated_worker_is_put_together_without_torch_and_weights(
    tmp_path: Path, service: str
) -> None:
    model = write_config(tmp_path / "model")
    layers = service == "layer_worker"
    profile = write_profile(
        tmp_path / "profile.json", LAYER_PROFILE if layers else ATTENTION_PROFILE
    )
    flags = {"compute": "emulated", "profile": str(profile)} | (
        {"model": str(model)} if layers else {}
    )
    code = (
        "import sys; sys.modules['torch'] = None\n"  # importing it raises
        "from common.config import ServiceSettings, load_settings\n"
        "from common.runtime.process import draw_identity\n"
        f"from services.{service} import config, service\n"
        "kind = next(each for each in vars(config).values() if isinstance(each, type)"
        f" and getattr(each, 'section', '') == '{service}')\n"
        f"settings = load_settings(kind, {flags!r})\n"
        "service.build(settings, draw_identity(settings))"
    )

    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
