"""The device under test, and models of a size that fits it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Final

import torch

from common.model_spec import ModelSpec, read_model_spec
from services.admin.bench.workloads import CACHE, SHAPES, Shape, make_checkpoint
from services.layer_worker.checkpoint import Checkpoint
from services.layer_worker.device import CpuDevice, Device, open_device
from services.layer_worker.layers import LayerStack
from services.layer_worker.native_row_math import choose_row_math
from services.layer_worker.stages import Rows, Stages
from services.layer_worker.weights import WeightForm, load_range

_TINY: Final = Shape(
    hidden_size=128,
    intermediate_size=256,
    num_layers=4,
    num_heads=4,
    num_kv_heads=2,
    vocab_size=320,
    tied=False,
)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A whole model, ready to compute on a device."""

    spec: ModelSpec
    stack: LayerStack
    stages: Stages
    device: Device


@dataclass(frozen=True)
class Rig:
    """What a run measures with."""

    name: str
    """Of the device, in torch's words."""
    is_dry: bool
    """All of the code on the processor, with a tiny model: its figures mean nothing."""
    num_layers: int
    """Of the model with 8B width."""

    @cached_property
    def device(self) -> Device:
        """The device, opened once."""
        return open_device(self.name, None)

    @cached_property
    def directory(self) -> Path:
        """A random checkpoint; made when it is first asked for."""
        if self.is_dry:
            return make_checkpoint(CACHE / "gpu-dry-run", _TINY)
        shape = replace(SHAPES["llama-8b-4-layers"], num_layers=self.num_layers)
        return make_checkpoint(CACHE / f"llama-8b-{self.num_layers}-layers", shape)

    def load(self, device: Device, dtype: torch.dtype, num_layers: int) -> Loaded:
        """Load the first layers and both ends of the model."""
        spec = replace(read_model_spec(self.directory), num_layers=num_layers)
        form = WeightForm(dtype=dtype, device=device.place)
        weights = load_range(Checkpoint(self.directory), spec, range(num_layers), form)
        stack = LayerStack(spec, weights, choose_row_math(device.place, dtype))
        device.settle()
        return Loaded(spec, stack, Stages(stack, device), device)

    def few_layers(self) -> int:
        """Give the layers of a check that the processor takes part in."""
        return min(2, read_model_spec(self.directory).num_layers)

    def on_cpu(self) -> Loaded:
        """Load a few layers in float32 on the processor: what is right."""
        return self.load(CpuDevice(), torch.float32, self.few_layers())


def go_through(model: Loaded, token_ids: Sequence[int]) -> torch.Tensor:
    """Take tokens through all layers, in which each row attends to itself alone.

    Shapes:
        -> [T, V], float32, on the host
    """
    stack, num_layers = model.stack, model.spec.num_layers
    group = model.spec.num_heads // model.spec.num_kv_heads

    def attend(qkv: torch.Tensor) -> torch.Tensor:
        values = qkv[:, -model.spec.kv_size :].unflatten(1, (-1, model.spec.head_size))  # type: ignore[no-untyped-call]
        repeated: torch.Tensor = values.repeat_interleave(group, dim=1).flatten(1)
        return repeated

    def compute(inputs: Sequence[torch.Tensor]) -> tuple[None, list[torch.Tensor]]:
        ids, places = inputs
        rows = Rows(stack.embed(ids), places)
        qkv = stack.pre_attention(0, rows.residual, places)
        for layer in range(num_layers - 1):
            rows, qkv = model.stages.advance(layer, attend(qkv), rows)
        hidden = stack.post_attention(num_layers - 1, attend(qkv), rows.residual)
        return None, [stack.logits(hidden)]

    ids = torch.tensor(token_ids, dtype=torch.int32)
    places = torch.arange(len(ids), dtype=torch.int32)
    launched = model.device.launch([[ids], [places]], compute, lambda finished: finished.taken[0])
    return launched.finish()


def error_of(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Give the norm of the difference over that of what is right."""
    return float((found.float() - expected.float()).norm() / expected.float().norm())
