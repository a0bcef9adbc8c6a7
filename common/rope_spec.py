"""How a model turns positions into rotations: the settings of its rotary embedding."""

import math
from dataclasses import dataclass

from common.config_json import ConfigJson
from common.errors import ModelRefused

DEFAULT_THETA = 10_000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearScaling:
    """Every frequency is divided by `factor`."""

    factor: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Llama3Scaling:
    """Long wavelengths are stretched, short ones kept, those between interpolated (Llama 3.1)."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_len: int
    """Tokens the model was first trained on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class YarnScaling:
    """Frequencies are interpolated by how often they turn in training (arXiv:2309.00071)."""

    factor: float
    original_max_len: int
    """Tokens the model was first trained on."""

    beta_fast: float
    """Frequencies with more turns than this are kept."""

    beta_slow: float
    """Frequencies with fewer turns than this are divided by `factor`."""

    attention_factor: float
    """Multiplies cosines and sines."""

    truncate: bool
    """Round the ramp's ends outwards to whole dimensions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeSpec:
    """A rotary embedding over the whole head."""

    theta: float
    scaling: LinearScaling | Llama3Scaling | YarnScaling | None = None

    def reach(self, max_position_embeddings: int) -> int:
        """Say how many tokens a model with this much in its config can serve, as vLLM does."""
        match self.scaling:
            case LinearScaling(factor=factor):
                return int(max_position_embeddings * factor)
            case YarnScaling(factor=factor, original_max_len=original_max_len):
                return int(original_max_len * factor)
            case _:
                return max_position_embeddings


def read_rope_spec(config: ConfigJson) -> RopeSpec:
    """Read both spellings: `rope_theta` with `rope_scaling`, and the newer `rope_parameters`.

    Raises:
        ModelRefused: The kind of scaling is not served, or a number is missing or impossible.
    """
    settings = config.section("rope_scaling", "rope_parameters")
    if any(isinstance(value, dict) for value in settings.fields.values()):
        message = f"{settings.name} differs by layer: serve a model with one rotary embedding"
        raise ModelRefused(message)
    for place in (config, settings):
        if place.number("partial_rotary_factor", 1.0) != 1.0:
            message = f"{place.name}: partial_rotary_factor is not 1, which is not served"
            raise ModelRefused(message)
    theta = settings.number("rope_theta", config.number("rope_theta", DEFAULT_THETA))
    return RopeSpec(theta=theta, scaling=_read_scaling(config, settings))


def _read_scaling(
    config: ConfigJson, settings: ConfigJson
) -> LinearScaling | Llama3Scaling | YarnScaling | None:
    match settings.text("rope_type", settings.text("type", "default")):
        # Dynamic NTK changes nothing up to max_position_embeddings, where we stop. Beyond, every
        # new length would need all earlier keys to be rotated anew, which no KV cache can give.
        case "default" | "dynamic":
            return None
        case "linear":
            return LinearScaling(factor=settings.number("factor"))
        case "llama3":
            return Llama3Scaling(
                factor=settings.number("factor"),
                low_freq_factor=settings.number("low_freq_factor"),
                high_freq_factor=settings.number("high_freq_factor"),
                original_max_len=_original_max_len(config, settings),
            )
        case "yarn":
            return _read_yarn(config, settings)
        case other:
            served = "default, linear, dynamic, llama3 and yarn"
            message = f"{settings.name}: type {other!r} is not served, only {served} are"
            raise ModelRefused(message)


def _read_yarn(config: ConfigJson, settings: ConfigJson) -> YarnScaling:
    factor = settings.number("factor")
    attention_factor = _magnitude(factor, 1.0)
    if "mscale" in settings.fields and "mscale_all_dim" in settings.fields:
        numerator = _magnitude(factor, settings.number("mscale"))
        attention_factor = numerator / _magnitude(factor, settings.number("mscale_all_dim"))
    return YarnScaling(
        factor=factor,
        original_max_len=_original_max_len(config, settings),
        beta_fast=settings.number("beta_fast", 32.0),
        beta_slow=settings.number("beta_slow", 1.0),
        attention_factor=settings.number("attention_factor", attention_factor),
        truncate=settings.flag("truncate", default=True),
    )


def _magnitude(factor: float, scale: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * scale * math.log(factor) + 1.0


def _original_max_len(config: ConfigJson, settings: ConfigJson) -> int:
    key = "original_max_position_embeddings"
    inner = settings.integer(key, config.integer("max_position_embeddings"))
    return config.integer(key, inner)
