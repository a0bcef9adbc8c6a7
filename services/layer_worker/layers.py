"""The stages of a layer range: everything of a transformer except attention.

A row's bits depend on that row alone, on CPU, for one dtype: linears get at least `MIN_ROWS` rows,
and whatever else there is treats the tail of a vector like its body.
"""

import torch
from torch.nn import functional

from common.model_spec import ModelSpec
from services.layer_worker.linear import pad_rows
from services.layer_worker.rotary import Rotary
from services.layer_worker.weights import LayerWeights, RangeWeights


class LayerStack:
    """Runs the stages of the layers `[start, stop)`.

    In the shapes, T rows have d numbers; H heads and G KV heads have D numbers each.
    """

    def __init__(self, spec: ModelSpec, weights: RangeWeights) -> None:
        """Take over the weights of a range of this model."""
        self._spec = spec
        self._weights = weights
        self._rotary = Rotary(spec.rope, spec.head_size, spec.max_model_len, weights.device)

    @property
    def dtype(self) -> torch.dtype:
        """What activations are in, logits excepted."""
        return self._weights.dtype

    @property
    def device(self) -> torch.device:
        """Where all tensors are."""
        return self._weights.device

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
            positions: [T], int32 or int64
            -> [T, (H + 2G) D], contiguous: queries, keys, values
        """
        weights = self._layer(layer)
        qkv = weights.qkv(self._norm(pad_rows(hidden), weights.attention_norm))
        heads = qkv.view(len(qkv), -1, self._spec.head_size)  # [T, H + 2G, D]
        num_heads, num_rotated = (
            self._spec.num_heads,
            self._spec.num_heads + self._spec.num_kv_heads,
        )
        if weights.query_norm is not None and weights.key_norm is not None:
            queries, keys = heads[:, :num_heads], heads[:, num_heads:num_rotated]
            queries.copy_(self._norm(queries, weights.query_norm))
            keys.copy_(self._norm(keys, weights.key_norm))
        num_rows = hidden.shape[0]
        self._rotary.rotate_(heads[:num_rows, :num_rotated], positions)
        return qkv[:num_rows]

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
        weights = self._layer(layer)
        hidden = weights.output(pad_rows(attention)) + pad_rows(residual)
        hidden += weights.mlp(self._norm(hidden, weights.mlp_norm))
        return hidden[: residual.shape[0]]

    @torch.inference_mode()
    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Score every token of the vocabulary; only on the last range.

        Shapes:
            hidden: [S, d] -> [S, V], float32
        """
        assert self._weights.final_norm is not None
        assert self._weights.classifier is not None
        rows = self._weights.classifier(self._norm(pad_rows(hidden), self._weights.final_norm))
        return rows[: hidden.shape[0]].float()

    def _layer(self, layer: int) -> LayerWeights:
        assert self._weights.start <= layer < self._weights.stop
        return self._weights.layers[layer - self._weights.start]

    def _norm(self, rows: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return functional.rms_norm(rows, weight.shape, weight, self._spec.rms_norm_eps)
