"""The stages of a layer range: everything of a transformer except attention.

A row's bits depend on that row alone, on CPU, for one dtype: linears get at least `MIN_ROWS` rows,
and whatever else there is treats the tail of a vector like its body.
"""

import torch
from torch.nn import functional

from common.model_spec import ModelSpec
from services.layer_worker.linear import pad_rows
from services.layer_worker.mlp import ExpertMlp
from services.layer_worker.rotary import rotation_table
from services.layer_worker.row_math import RowMath
from services.layer_worker.weights import LayerWeights, RangeWeights


class LayerStack:
    """Runs the stages of the layers `[start, stop)`.

    In the shapes, T rows have d numbers; H heads and G KV heads have D numbers each.
    """

    def __init__(self, spec: ModelSpec, weights: RangeWeights, row_math: RowMath) -> None:
        """Take over the weights of a range of this model.

        Args:
            spec: The whole model's.
            weights: Of this range.
            row_math: Can compute on the weights' device, in their dtype.
        """
        self._spec = spec
        self._weights = weights
        self._math = row_math
        table = rotation_table(spec.rope, spec.head_size, spec.max_model_len)
        self._rotations = table.to(weights.device)

    @property
    def dtype(self) -> torch.dtype:
        """What activations are in, logits excepted."""
        return self._weights.dtype

    @property
    def device(self) -> torch.device:
        """Where all tensors are."""
        return self._weights.device

    @property
    def layers(self) -> range:
        """Those of the range."""
        return range(self._weights.start, self._weights.stop)

    @property
    def spec(self) -> ModelSpec:
        """The whole model's."""
        return self._spec

    @property
    def is_static(self) -> bool:
        """Whether what is done depends on the number of rows alone, as it does without experts."""
        return not any(isinstance(each.mlp, ExpertMlp) for each in self._weights.layers)

    @torch.inference_mode()
    def embed(self, token_ids: torch.Tensor) -> torch.Tensor:
        """Look up tokens; only on the first range.

        Shapes:
            token_ids: [T], int32 or int64 -> [T, d]
        """
        assert self._weights.embedding is not None
        return functional.embedding(token_ids, self._weights.embedding)

    @torch.inference_mode()
    def pre_attention(
        self, layer: int, hidden: torch.Tensor, positions: torch.Tensor
    ) -> torch.Tensor:
        """Make what attention needs: norm, fused QKV, norm of queries and keys, rotation.

        Shapes:
            hidden: [T, d]
            positions: [T], int32, each below the model's longest length
            -> [T, (H + 2G) D], contiguous: queries, keys, values
        """
        weights, epsilon = self._layer(layer), self._spec.rms_norm_eps
        normed = self._math.norm(pad_rows(hidden), weights.attention_norm, epsilon)
        return self._make_qkv(layer, normed, positions)

    @torch.inference_mode()
    def post_attention(
        self, layer: int, attention: torch.Tensor, residual: torch.Tensor
    ) -> torch.Tensor:
        """Finish a layer: output projection, norm and MLP, each added to the residual.

        Shapes:
            attention: [T, H D]
            residual: [T, d], what `pre_attention` was given
            -> [T, d]
        """
        hidden, increase = self._through_mlp(layer, attention, residual)
        hidden += increase
        return hidden[: residual.shape[0]]

    @torch.inference_mode()
    def advance(
        self,
        layer: int,
        attention: torch.Tensor,
        residual: torch.Tensor,
        positions: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Finish a layer and begin the next one: `post_attention`, then `pre_attention`, in one go.

        Shapes:
            attention: [T, H D], residual: [T, d], positions: [T]
            -> [T, d], the next residual; [T, (H + 2G) D]
        """
        hidden, increase = self._through_mlp(layer, attention, residual)
        following, epsilon = self._layer(layer + 1), self._spec.rms_norm_eps
        normed = self._math.add_norm(hidden, increase, following.attention_norm, epsilon)
        qkv = self._make_qkv(layer + 1, normed, positions)
        return hidden[: residual.shape[0]], qkv

    @torch.inference_mode()
    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Score every token of the vocabulary; only on the last range.

        Shapes:
            hidden: [S, d] -> [S, V], float32
        """
        assert self._weights.final_norm is not None
        assert self._weights.classifier is not None
        norm, epsilon = self._weights.final_norm, self._spec.rms_norm_eps
        rows = self._weights.classifier(self._math.norm(pad_rows(hidden), norm, epsilon))
        return rows[: hidden.shape[0]].float()

    def _make_qkv(self, layer: int, normed: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Project, norm queries and keys, rotate.

        Shapes:
            normed: [max(T, MIN_ROWS), d], positions: [T] -> [T, (H + 2G) D]
        """
        weights, epsilon = self._layer(layer), self._spec.rms_norm_eps
        num_rows, num_heads = len(positions), self._spec.num_heads
        num_rotated = num_heads + self._spec.num_kv_heads
        qkv = weights.qkv(normed)
        heads = qkv.view(len(qkv), -1, self._spec.head_size)[:num_rows]  # [T, H + 2G, D]
        if weights.query_norm is not None and weights.key_norm is not None:
            self._math.norm_heads_(heads[:, :num_heads], weights.query_norm, epsilon)
            self._math.norm_heads_(heads[:, num_heads:num_rotated], weights.key_norm, epsilon)
        self._math.rotate_(heads[:, :num_rotated], positions, self._rotations)
        return qkv[:num_rows]

    def _through_mlp(
        self, layer: int, attention: torch.Tensor, residual: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Give the residual after attention, and what the MLP adds to it.

        Shapes:
            attention: [T, H D], residual: [T, d] -> two of [max(T, MIN_ROWS), d]
        """
        weights, epsilon = self._layer(layer), self._spec.rms_norm_eps
        hidden = weights.output(pad_rows(attention))
        normed = self._math.add_norm(hidden, pad_rows(residual), weights.mlp_norm, epsilon)
        return hidden, weights.mlp(normed, self._math)

    def _layer(self, layer: int) -> LayerWeights:
        assert self._weights.start <= layer < self._weights.stop
        return self._weights.layers[layer - self._weights.start]
