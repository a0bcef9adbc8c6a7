"""The layer worker's compute: a microbatch's way through one layer range. Runs off the loop.

It keeps nothing of a microbatch: what it needs again travels through the state as `carry`.
"""

from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from common.errors import ModelRefused, WireError
from common.messages import LayerRole, Sampling, Tensor
from common.messages.entries import positions, sampled_rows
from common.model_spec import ModelSpec
from services.layer_worker.checkpoint import Checkpoint
from services.layer_worker.layers import LayerStack
from services.layer_worker.local_attention import (
    LocalResult,
    LocalRows,
    attend_locally,
    find_local_rows,
    merge,
)
from services.layer_worker.native_row_math import choose_row_math
from services.layer_worker.quantized import choose_linear
from services.layer_worker.sampler import Allowed, Choices, sample
from services.layer_worker.torch_tensor import TO_TORCH, from_torch, to_torch
from services.layer_worker.weights import load_range
from services.layer_worker.work import (
    Advance,
    Attended,
    Begin,
    End,
    LayerBegun,
    LoadRange,
    RangeEnded,
    RangeLoaded,
    TokensChosen,
    Work,
)

if TYPE_CHECKING:
    from services.layer_worker.grammars import GrammarMasks


class _Carry(NamedTuple):
    """What a microbatch needs again when its attention is back."""

    residual: torch.Tensor
    """[T, d]"""
    positions: torch.Tensor
    """[T]"""
    local: LocalRows | None
    attended: LocalResult | None = None
    """Of this layer, if there are local rows."""


class LayerEngine:
    """Computes everything of a layer range but attention. Not thread-safe."""

    def __init__(self, directory: Path, spec: ModelSpec, device: torch.device) -> None:
        """Open the checkpoint; the first work must be `LoadRange`.

        Raises:
            ModelRefused: The checkpoint cannot be served.
        """
        self._checkpoint = Checkpoint(directory)
        self._spec = spec
        self._device = device
        self._stack: LayerStack | None = None
        self._directory = directory
        self._masks: GrammarMasks | None = None
        """Made when the first grammar comes."""

    @torch.inference_mode()
    def compute(self, work: Work) -> RangeLoaded | LayerBegun | RangeEnded | TokensChosen:
        """Do one piece of work.

        Raises:
            ModelRefused: The range's tensors are not all there, or nothing that grammars need.
            WireError: The work does not fit the model or its own entries.
        """
        started_s = perf_counter()
        match work:
            case LoadRange(role=role):
                self._load(role)
                return RangeLoaded(role=role)
            case Begin():
                return self._begin(work, started_s)
            case Advance():
                return self._advance(work, started_s)
            case End():
                return self._end(work, started_s)

    def _load(self, role: LayerRole) -> None:
        self._stack = None  # both ranges need not fit at once
        dtype = TO_TORCH[role.dtype]
        row_math = choose_row_math(self._device, dtype)
        weights = load_range(
            self._checkpoint,
            self._spec,
            range(role.start, role.stop),
            dtype=dtype,
            device=self._device,
            make_linear=choose_linear(role.quantization, dtype, self._device, row_math),
        )
        self._stack = LayerStack(self._spec, weights, row_math)

    def _begin(self, work: Begin, started_s: float) -> LayerBegun:
        entries = work.entries.numpy()
        places = positions(entries)  # [T]
        _check_range("positions", places, self._spec.max_model_len)
        carry = _Carry(
            residual=self._enter(work.arrived),
            positions=torch.from_numpy(places).to(self._device),
            local=find_local_rows(entries, self._device),
        )
        return self._begin_layer(work, work.layer, carry, started_s)

    def _enter(self, arrived: Tensor) -> torch.Tensor:
        """Embed token ids, or take hidden rows as they are.

        Shapes:
            arrived: [T] or [T, d] -> [T, d]
        """
        if arrived.dtype != "int32":
            return to_torch(arrived).to(self._device)
        _check_range("token ids", arrived.numpy(), self._spec.vocab_size)
        return self._loaded.embed(to_torch(arrived).to(self._device))

    def _advance(self, work: Advance, started_s: float) -> LayerBegun:
        attention = self._gather(work.attention, work.carry)
        residual = self._loaded.post_attention(work.layer, attention, work.carry.residual)
        carry = work.carry._replace(residual=residual)
        return self._begin_layer(work, work.layer + 1, carry, started_s)

    def _begin_layer(
        self, work: Begin | Advance, layer: int, carry: _Carry, started_s: float
    ) -> LayerBegun:
        qkv = self._loaded.pre_attention(layer, carry.residual, carry.positions)
        written_kv = None
        if (local := carry.local) is not None:
            by_head = qkv.view(len(qkv), -1, self._spec.head_size)
            window = self._spec.sliding_windows[layer]
            attended = attend_locally(by_head, local, self._spec.num_kv_heads, window)
            carry = carry._replace(attended=attended)
            if len(local.written):
                written_kv = from_torch(qkv[local.written, self._spec.query_size :])
        return LayerBegun(
            microbatch_id=work.microbatch_id,
            carry=carry,
            qkv=from_torch(qkv),
            written_kv=written_kv,
            engine_s=perf_counter() - started_s,
        )

    def _end(self, work: End, started_s: float) -> RangeEnded | TokensChosen:
        residual = work.carry.residual
        attention = self._gather(work.attention, work.carry)
        if work.sampling is None:
            hidden = self._loaded.post_attention(work.layer, attention, residual)
            return RangeEnded(
                microbatch_id=work.microbatch_id,
                hidden=from_torch(hidden),
                engine_s=perf_counter() - started_s,
            )
        rows = sampled_rows(work.entries.numpy())
        logits = self._logits(work.layer, attention, residual, rows)
        choices = sample(logits, work.sampling, self._allowed(work.sampling))
        return _chosen(work, choices, started_s)

    def _allowed(self, sampling: Sampling) -> Allowed | None:
        if sampling.grammars is None:
            return None
        if self._masks is None:
            self._masks = _open_masks(self._directory, self._spec)
        return self._masks.allowed(sampling.grammars)

    def _logits(
        self,
        layer: int,
        attention: torch.Tensor,
        residual: torch.Tensor,
        rows: NDArray[np.int64],
    ) -> torch.Tensor:
        """Take only the rows to be sampled through the rest of the model.

        Shapes:
            attention: [T, H D], residual: [T, d], rows: [S] -> [S, V]
        """
        if not len(rows):
            return torch.empty(0, self._spec.vocab_size, device=self._device)
        wanted = torch.from_numpy(rows).to(self._device)
        hidden = self._loaded.post_attention(layer, attention[wanted], residual[wanted])  # [S, d]
        return self._loaded.logits(hidden)

    def _gather(self, shards: Sequence[Attended], carry: _Carry) -> torch.Tensor:
        """Join the shards' outputs in one copy, and with them what was attended to here.

        Shapes:
            outputs: [T of the shard, H D] each -> [T, H D]
        """
        local = carry.local
        num_rows = len(carry.residual if local is None else local.attended)
        attention = self._join([shard.output for shard in shards], num_rows, self._spec.query_size)
        if local is None:
            return attention.to(self._loaded.dtype)
        assert carry.attended
        sums = [shard.log_sums for shard in shards if shard.log_sums is not None]
        log_sums = self._join(sums, len(local.merged), self._spec.num_heads)
        return merge(carry.attended, local, attention, log_sums)

    def _join(self, shards: Sequence[Tensor], num_rows: int, width: int) -> torch.Tensor:
        """Put rows of several shards together; a single shard is taken as it is.

        Raises:
            WireError: They are not so many rows, or not that wide.
        """
        parts = [to_torch(shard) for shard in shards]
        shapes = [tuple(part.shape) for part in parts]
        if any(shape[1:] != (width,) for shape in shapes) or num_rows != sum(map(len, parts)):
            message = f"shards of shapes {shapes} came back, they must join to {(num_rows, width)}"
            raise WireError(message)
        if not parts:
            return torch.empty(0, width, device=self._device)
        return (parts[0] if len(parts) == 1 else torch.cat(parts)).to(self._device)

    @property
    def _loaded(self) -> LayerStack:
        assert self._stack, "the state computes only once the range is loaded"
        return self._stack


def _open_masks(directory: Path, spec: ModelSpec) -> "GrammarMasks":
    """Prepare for grammars.

    Raises:
        ModelRefused: The extra is not installed, or the tokenizer cannot be used.
    """
    try:
        from services.layer_worker.grammars import GrammarMasks
    except ImportError as error:
        message = "grammars need llguidance here; pip install 'glinthawk[structured]'"
        raise ModelRefused(message) from error
    return GrammarMasks(directory, spec.vocab_size, spec.eos_token_ids)


def _check_range(name: str, numbers: NDArray[np.int32], size: int) -> None:
    """Refuse an index out of range: neither a GPU nor the kernels would survive it."""
    if numbers.size and not 0 <= numbers.min() <= numbers.max() < size:
        message = f"{name} from {numbers.min()} to {numbers.max()}, the model has {size}"
        raise WireError(message)


def _chosen(work: End, choices: Choices, started_s: float) -> TokensChosen:
    return TokensChosen(
        microbatch_id=work.microbatch_id,
        tokens=from_torch(choices.tokens),
        finite=from_torch(choices.finite),
        logprobs=from_torch(choices.logprobs),
        top_tokens=from_torch(choices.top_tokens),
        top_logprobs=from_torch(choices.top_logprobs),
        engine_s=perf_counter() - started_s,
    )
