"""The weights of a layer range, fused as the stages use them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from common.checkpoint_header import EMBEDDING, FINAL_NORM
from common.model_spec import ModelSpec
from common.packing_spec import PackingSpec
from services.layer_worker.checkpoint import Checkpoint
from services.layer_worker.linear import Linear, LinearLayer, MakeLinear
from services.layer_worker.loading import LoadProgress
from services.layer_worker.mlp import ExpertMlp, GatedMlp
from services.layer_worker.packed import Int4Linear, PackedWeight, fits_int4, fuse, unpack


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerWeights:
    """One layer. d is the hidden size; H heads and G KV heads have D numbers."""

    attention_norm: torch.Tensor
    """[d]"""

    qkv: LinearLayer
    """d -> (H + 2G) D: queries, keys, values."""

    query_norm: torch.Tensor | None
    """[D]"""

    key_norm: torch.Tensor | None
    """[D]"""

    output: LinearLayer
    """H D -> d"""

    mlp_norm: torch.Tensor
    """[d]"""

    mlp: GatedMlp | ExpertMlp


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightForm:
    """What the weights of a range are to be like."""

    dtype: torch.dtype
    """Of weights and activations."""
    device: torch.device
    make_linear: MakeLinear = Linear
    """Makes the layers' linears, but for what scores experts or tokens."""
    keep_packed: bool = False
    """Weights of 4 bits stay as they are where a kernel takes them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RangeWeights:
    """The layers `[start, stop)`, with what stands before the first and after the last layer."""

    start: int
    stop: int
    dtype: torch.dtype
    device: torch.device
    layers: tuple[LayerWeights, ...]

    embedding: torch.Tensor | None
    """[V, d], on the first range."""

    final_norm: torch.Tensor | None
    """[d], on the last range."""

    classifier: Linear | None
    """d -> V, on the last range."""


def load_range(
    checkpoint: Checkpoint,
    spec: ModelSpec,
    layers: range,
    form: WeightForm,
) -> RangeWeights:
    """Read these layers and nothing else.

    Args:
        checkpoint: Has the tensors.
        spec: The whole model's.
        layers: One after the other.
        form: What they are to be like.

    Raises:
        ModelRefused: A tensor is missing or wrong; names it. Nothing was read.
    """
    checkpoint.check(spec, layers.start, layers.stop)
    progress = LoadProgress(checkpoint.size_bytes(spec, layers.start, layers.stop))
    loader = _Loader(checkpoint, form, spec.packing, progress)
    first, last = layers.start == 0, layers.stop == spec.num_layers
    weights = RangeWeights(
        start=layers.start,
        stop=layers.stop,
        dtype=form.dtype,
        device=form.device,
        layers=tuple(_load_layer(loader, spec, layer) for layer in layers),
        embedding=loader.fused([EMBEDDING]) if first else None,
        final_norm=loader.fused([FINAL_NORM]) if last else None,
        classifier=Linear(loader.fused([checkpoint.classifier_name(spec)])) if last else None,
    )
    progress.end()
    return weights


@dataclass(frozen=True, slots=True)
class _Loader:
    checkpoint: Checkpoint
    form: WeightForm
    packing: PackingSpec | None
    progress: LoadProgress

    def fused(self, names: Sequence[str]) -> torch.Tensor:
        """Stack tensors; always a copy, so that no file stays mapped."""
        return torch.cat([self._read(name).to(self.form.dtype) for name in names])

    def linear(self, prefix: str, names: Sequence[str], *, bias: bool) -> LinearLayer:
        linears = [f"{prefix}.{name}" for name in names]
        biases = self.fused([f"{name}.bias" for name in linears]) if bias else None
        if self.packing is None or not any(map(self.checkpoint.is_packed, linears)):
            return self.form.make_linear(self.fused([f"{name}.weight" for name in linears]), biases)
        parts = [self._weight(name, self.packing) for name in linears]
        packed = [part for part in parts if isinstance(part, PackedWeight)]
        fused = fuse(packed) if self.form.keep_packed and len(packed) == len(parts) else None
        if fused is not None and fits_int4(fused, self.form.dtype):
            return Int4Linear(fused, biases, self.form.dtype)
        restored = [
            part.restore(self.form.dtype) if isinstance(part, PackedWeight) else part
            for part in parts
        ]
        return self.form.make_linear(torch.cat(restored), biases)

    def _weight(self, linear: str, packing: PackingSpec) -> torch.Tensor | PackedWeight:
        if not self.checkpoint.is_packed(linear):
            return self._read(f"{linear}.weight").to(self.form.dtype)
        groups = None
        if self.checkpoint.has(f"{linear}.g_idx"):
            groups = self.checkpoint.tensor(f"{linear}.g_idx").to(self.form.device)
        return unpack(
            packing,
            self._read(f"{linear}.qweight"),
            self._read(f"{linear}.qzeros"),
            self._read(f"{linear}.scales"),
            groups,
        )

    def _read(self, name: str) -> torch.Tensor:
        tensor = self.checkpoint.tensor(name)
        self.progress.add(tensor.nbytes)
        return tensor.to(self.form.device)


def _load_layer(loader: _Loader, spec: ModelSpec, layer: int) -> LayerWeights:
    prefix = f"model.layers.{layer}"
    attention = f"{prefix}.self_attn"
    return LayerWeights(
        attention_norm=loader.fused([f"{prefix}.input_layernorm.weight"]),
        qkv=loader.linear(attention, ["q_proj", "k_proj", "v_proj"], bias=spec.qkv_bias),
        query_norm=loader.fused([f"{attention}.q_norm.weight"]) if spec.qk_norm else None,
        key_norm=loader.fused([f"{attention}.k_norm.weight"]) if spec.qk_norm else None,
        output=loader.linear(attention, ["o_proj"], bias=spec.output_bias),
        mlp_norm=loader.fused([f"{prefix}.post_attention_layernorm.weight"]),
        mlp=_load_mlp(loader, spec, layer),
    )


def _load_mlp(loader: _Loader, spec: ModelSpec, layer: int) -> GatedMlp | ExpertMlp:
    prefix = f"model.layers.{layer}"
    if spec.moe is None or layer not in spec.moe.layers:
        return _load_gated(loader, f"{prefix}.mlp", ("gate_proj", "up_proj", "down_proj"), spec)
    block = f"{prefix}.{spec.moe.block}"
    return ExpertMlp(
        router=Linear(loader.fused([f"{block}.gate.weight"])),
        experts=tuple(
            _load_gated(loader, f"{block}.experts.{expert}", spec.moe.projections, spec)
            for expert in range(spec.moe.num_experts)
        ),
        num_chosen=spec.moe.num_chosen,
        normalized=spec.moe.normalized,
    )


def _load_gated(
    loader: _Loader, prefix: str, projections: tuple[str, str, str], spec: ModelSpec
) -> GatedMlp:
    gate, up, down = projections
    return GatedMlp(
        gate_up=loader.linear(prefix, [gate, up], bias=spec.mlp_bias),
        down=loader.linear(prefix, [down], bias=spec.mlp_bias),
    )
