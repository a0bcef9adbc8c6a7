"""How a checkpoint packs the weights of its linears into 4 bits: AWQ's way or GPTQ's."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

from common.config_json import ConfigJson
from common.errors import ModelRefused

NUMBERS_PER_WORD: Final = 8
"""Of 4 bits, in an int32."""

_WORDS: Final = ("I32",)
_SCALES: Final = ("F16", "BF16", "F32")


@dataclass(frozen=True, slots=True, kw_only=True)
class PackingSpec:
    """Whole numbers of 4 bits, with a scale and a zero per output and group of inputs."""

    method: Literal["awq", "gptq"]
    group_size: int | None
    """Inputs that share a scale; None: all of them."""
    stored_zeros_off: int
    """What is to be added to a zero as it is stored."""

    def num_groups(self, num_inputs: int) -> int:
        """Give the scales of an output."""
        return 1 if self.group_size is None else -(-num_inputs // self.group_size)

    def tensors(
        self, num_outputs: int, num_inputs: int
    ) -> Iterator[tuple[str, tuple[int, ...], tuple[str, ...]]]:
        """Give what a linear's weight is stored as: names, shapes, and dtypes in safetensors' words."""
        num_groups = self.num_groups(num_inputs)
        if self.method == "awq":
            yield "qweight", (num_inputs, num_outputs // NUMBERS_PER_WORD), _WORDS
        else:
            yield "qweight", (num_inputs // NUMBERS_PER_WORD, num_outputs), _WORDS
        yield "qzeros", (num_groups, num_outputs // NUMBERS_PER_WORD), _WORDS
        yield "scales", (num_groups, num_outputs), _SCALES


def read_packing_spec(config: ConfigJson) -> PackingSpec | None:
    """Read how weights are packed; None if they are not.

    Raises:
        ModelRefused: They are packed in another way than those that are read.
    """
    section = config.section("quantization_config", "compression_config")
    if not section.fields:
        return None
    method = section.text("quant_method", "missing")
    bits = section.fields.get("bits")
    version = section.text("version", "gemm").lower()
    kind = section.text("checkpoint_format", "gptq")
    fits = (method == "awq" and version == "gemm") or (
        method == "gptq" and kind in ("gptq", "gptq_v2")
    )
    if not fits or bits != 4:
        raise ModelRefused(
            f"{section.name}: {method} with {bits} bits ({version if method == 'awq' else kind}) is "
            "not served, only awq (gemm) and gptq with 4 bits: or take the bf16 checkpoint"
        )
    all_inputs = section.fields.get("group_size") == -1
    return PackingSpec(
        method="awq" if method == "awq" else "gptq",
        group_size=None if all_inputs else section.integer("group_size", 128),
        # GPTQ's first format stores each zero less one.
        stored_zeros_off=1 if method == "gptq" and kind == "gptq" else 0,
    )
