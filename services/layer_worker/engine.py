"""The layer worker's compute: a microbatch's way through one layer range. Runs off the loop.

It keeps nothing of a microbatch: what it needs again travels through the state as `carry`.
"""

from collections.abc import Sequence
from functools import partial
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
from common.runtime.engine_thread import Launched
from services.layer_worker.checkpoint import Checkpoint
from services.layer_worker.device import Device, Finished
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
from services.layer_worker.sampler import Allowed, Choices, Sampler
from services.layer_worker.stages import Rows, Stages
from services.layer_worker.torch_tensor import TO_TORCH, from_torch, to_torch
from services.layer_worker.weights import WeightForm, load_range
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

    rows: Rows
    local: LocalRows | None
    attended: LocalResult | None = None
    """Of this layer, if there are local rows."""


_Result = RangeLoaded | LayerBegun | RangeEnded | TokensChosen
_Parts = Sequence[torch.Tensor]
"""Rows of several shards, one after the other."""


class LayerEngine:
    """Computes everything of a layer range but attention. Not thread-safe."""

    def __init__(self, directory: Path, spec: ModelSpec, device: Device) -> None:
        """Open the checkpoint; the first work must be `LoadRange`.

        Raises:
            ModelRefused: The checkpoint cannot be served.
        """
        self._checkpoint = Checkpoint(directory)
        self._spec = spec
        self._device = device
        self._stack: LayerStack | None = None
        self._stages: Stages | None = None
        self._directory = directory
        self._masks: GrammarMasks | None = None
        """Made when the first grammar comes."""

    def compute(self, work: Work) -> _Result:
        """Do one piece of work, and wait for its end.

        Raises:
            ModelRefused: The range's tensors are not all there, or nothing that grammars need.
            WireError: The work does not fit the model or its own entries.
        """
        return self.launch(work).finish()

    @torch.inference_mode()
    def launch(self, work: Work) -> Launched[_Result]:
        """Do one piece of work, or let the device do it; work on weights must be the only one.

        Raises:
            ModelRefused: The range's tensors are not all there, or nothing that grammars need.
            WireError: The work does not fit the model or its own entries.
        """
        started_s = perf_counter()
        match work:
            case LoadRange(role=role):
                self._load(role)
                loaded = RangeLoaded(role=role)
                return Launched(lambda: loaded)
            case Begin():
                return self._begin(work, started_s)
            case Advance():
                return self._advance(work, started_s)
            case End():
                return self._end(work, started_s)

    def _load(self, role: LayerRole) -> None:
        self._stack = self._stages = None  # both ranges need not fit at once
        dtype, place = TO_TORCH[role.dtype], self._device.place
        row_math = choose_row_math(place, dtype)
        form = WeightForm(
            dtype=dtype,
            device=place,
            make_linear=choose_linear(role.quantization, dtype, place, row_math),
            keep_packed=role.quantization == "w4a16",
        )
        weights = load_range(self._checkpoint, self._spec, range(role.start, role.stop), form)
        self._stack = LayerStack(self._spec, weights, row_math)
        self._device.settle()
        self._stages = Stages(self._stack, self._device)

    def _begin(self, work: Begin, started_s: float) -> Launched[_Result]:
        entries = work.entries.numpy()
        places = positions(entries)  # [T]
        _check_range("positions", places, self._spec.max_model_len)
        is_embedded = work.arrived.dtype != "int32"
        if not is_embedded:
            _check_range("token ids", work.arrived.numpy(), self._spec.vocab_size)
        local = find_local_rows(entries, self._device.place)

        def compute(inputs: _Parts) -> tuple[_Carry, _Parts]:
            rows, rotated_by = inputs  # [T] or [T, d]; [T]
            residual = rows if is_embedded else self._loaded.embed(rows)
            qkv = self._loaded.pre_attention(work.layer, residual, rotated_by)
            return self._scatter(work.layer, qkv, _Carry(Rows(residual, rotated_by), local))

        arrived = ([to_torch(work.arrived)], [torch.from_numpy(places)])
        return self._device.launch(arrived, compute, partial(_begun, work, _since(started_s)))

    def _advance(self, work: Advance, started_s: float) -> Launched[_Result]:
        carry: _Carry = work.carry

        def compute(inputs: _Parts) -> tuple[_Carry, _Parts]:
            assert self._stages, "the state computes only once the range is loaded"
            attention = self._merge(inputs, carry)
            rows, qkv = self._stages.advance(work.layer, attention, carry.rows)
            return self._scatter(work.layer + 1, qkv, carry._replace(rows=rows))

        arrived = self._gather(work.attention, carry)
        return self._device.launch(arrived, compute, partial(_begun, work, _since(started_s)))

    def _scatter(self, layer: int, qkv: torch.Tensor, carry: _Carry) -> tuple[_Carry, _Parts]:
        """Let local rows attend, and choose what goes to tier 2.

        Shapes:
            qkv: [T, (H + 2G) D] -> the same, and [W, 2 G D] if rows are only written
        """
        local = carry.local
        if local is None:
            return carry, [qkv]
        by_head = qkv.view(len(qkv), -1, self._spec.head_size)
        window = self._spec.sliding_windows[layer]
        attended = attend_locally(by_head, local, self._spec.num_kv_heads, window)
        written = [qkv[local.written, self._spec.query_size :]] if len(local.written) else []
        return carry._replace(attended=attended), [qkv, *written]

    def _end(self, work: End, started_s: float) -> Launched[_Result]:
        carry: _Carry = work.carry
        sampling = work.sampling
        arrived = self._gather(work.attention, carry)
        if sampling is None:

            def leave(inputs: _Parts) -> tuple[None, _Parts]:
                attention = self._merge(inputs, carry)
                return None, [
                    self._loaded.post_attention(work.layer, attention, carry.rows.residual)
                ]

            return self._device.launch(arrived, leave, partial(_ended, work, _since(started_s)))
        rows = sampled_rows(work.entries.numpy())
        sampler = Sampler(sampling, self._spec.vocab_size, self._allowed(sampling))
        # None where all are sampled, as they are in decode.
        places = torch.from_numpy(rows) if len(rows) < len(carry.rows.residual) else None
        extra = sampler.inputs if places is None else [*sampler.inputs, places]
        first, last = len(arrived), len(arrived) + len(sampler.inputs)

        def choose(inputs: _Parts) -> tuple[None, _Parts]:
            attention = self._merge(inputs, carry)
            wanted = None if places is None else inputs[last]
            logits = self._logits(work.layer, attention, carry.rows.residual, wanted)
            return None, sampler.choose(logits, inputs[first:last])

        finish = partial(_chosen, work, _since(started_s))
        return self._device.launch([*arrived, *([each] for each in extra)], choose, finish)

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
        rows: torch.Tensor | None,
    ) -> torch.Tensor:
        """Take only the rows to be sampled through the rest of the model; None: all.

        Shapes:
            attention: [T, H D], residual: [T, d], rows: [S] -> [S, V]
        """
        if rows is not None:
            attention, residual = attention[rows], residual[rows]
        if not len(residual):
            return torch.empty(0, self._spec.vocab_size, device=self._device.place)
        return self._loaded.logits(self._loaded.post_attention(layer, attention, residual))

    def _gather(self, shards: Sequence[Attended], carry: _Carry) -> Sequence[_Parts]:
        """Give what came back: the outputs, and of local rows the sums, each shard by shard.

        Raises:
            WireError: It is not of so many rows, or not that wide.
        """
        local = carry.local
        num_rows = len(carry.rows.residual if local is None else local.attended)
        outputs = _parts([shard.output for shard in shards], num_rows, self._spec.query_size)
        if local is None:
            return [outputs]
        sums = [shard.log_sums for shard in shards if shard.log_sums is not None]
        return [outputs, _parts(sums, len(local.merged), self._spec.num_heads)]

    def _merge(self, inputs: _Parts, carry: _Carry) -> torch.Tensor:
        """Bring what came back together with what was attended to here.

        Shapes:
            inputs: [A, H D], and of local rows [M, H] -> [T, H D]
        """
        attention = inputs[0].to(self._loaded.dtype)
        if carry.local is None:
            return attention
        assert carry.attended
        return merge(carry.attended, carry.local, attention, log_sums=inputs[1])

    @property
    def _loaded(self) -> LayerStack:
        assert self._stack, "the state computes only once the range is loaded"
        return self._stack


def _parts(shards: Sequence[Tensor], num_rows: int, width: int) -> _Parts:
    """View rows of several shards, which together must be so many.

    Raises:
        WireError: They are not, or not that wide.
    """
    parts = [to_torch(shard) for shard in shards]
    shapes = [tuple(part.shape) for part in parts]
    if any(shape[1:] != (width,) for shape in shapes) or num_rows != sum(map(len, parts)):
        message = f"shards of shapes {shapes} came back, they must join to {(num_rows, width)}"
        raise WireError(message)
    return parts or [torch.empty(0, width)]


def _since(started_s: float) -> float:
    return perf_counter() - started_s


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


def _begun(work: Begin | Advance, prepared_s: float, finished: Finished) -> LayerBegun:
    qkv, *written = finished.taken
    return LayerBegun(
        microbatch_id=work.microbatch_id,
        carry=finished.kept,
        qkv=from_torch(qkv),
        written_kv=from_torch(written[0]) if written else None,
        engine_s=prepared_s + finished.seconds,
    )


def _ended(work: End, prepared_s: float, finished: Finished) -> RangeEnded:
    return RangeEnded(
        microbatch_id=work.microbatch_id,
        hidden=from_torch(finished.taken[0]),
        engine_s=prepared_s + finished.seconds,
    )


def _chosen(work: End, prepared_s: float, finished: Finished) -> TokensChosen:
    choices = Choices(*finished.taken)
    return TokensChosen(
        microbatch_id=work.microbatch_id,
        tokens=from_torch(choices.tokens),
        finite=from_torch(choices.finite),
        logprobs=from_torch(choices.logprobs),
        top_tokens=from_torch(choices.top_tokens),
        top_logprobs=from_torch(choices.top_logprobs),
        engine_s=prepared_s + finished.seconds,
    )
