"""Chooses the next tokens from logits, for all entries at once.

A row's result depends on its logits, its parameters and its uniform number alone, never on the
other rows. The steps and their order are vLLM's: grammar, bias, penalties, temperature, min_p,
top_k, top_p.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch

from common.errors import WireError
from common.messages.step import Sampling
from common.messages.tensor import Tensor
from services.layer_worker.torch_tensor import to_torch

_NEVER = float("-inf")

_COLUMNS = ("floats", "ints", "uniforms")
"""The fields of `Sampling` that have a row per entry."""

_USUAL_NUCLEUS = 1024
"""Tokens that are ranked at first; most nuclei are smaller, and ranking all takes far longer."""


class Choices(NamedTuple):
    """What was chosen. Letters as in `common.messages.step`; rows in the order of the entries."""

    tokens: torch.Tensor
    """int32 [S]"""
    finite: torch.Tensor
    """int8 [S]: 0 where no token can be chosen; all else is 0 there too."""
    logprobs: torch.Tensor
    """fp32 [S]"""
    top_tokens: torch.Tensor
    """int32 [S, K]"""
    top_logprobs: torch.Tensor
    """fp32 [S, K]"""


class Allowed(NamedTuple):
    """The tokens that some rows may choose; the others may choose any."""

    rows: torch.Tensor
    """int64 [C]"""
    tokens: torch.Tensor
    """bool [C, V]"""


class _Columns(NamedTuple):
    """The parameters of the entries, a tensor each, on the device of the logits."""

    temperature: torch.Tensor
    top_p: torch.Tensor
    min_p: torch.Tensor
    presence: torch.Tensor
    frequency: torch.Tensor
    repetition: torch.Tensor
    top_k: torch.Tensor
    num_logprobs: torch.Tensor
    num_prompt: torch.Tensor
    num_output: torch.Tensor
    num_biases: torch.Tensor
    uniforms: torch.Tensor

    @classmethod
    def of(cls, given: Mapping[str, torch.Tensor]) -> "_Columns":
        floats, ints, uniforms = (given[name] for name in _COLUMNS)  # [S, 6], [S, 5], [S]
        return cls._make([*floats.unbind(1), *ints.long().unbind(1), uniforms])

    def rows(self, rows: torch.Tensor) -> "_Columns":
        return _Columns(*(column[rows] for column in self))


class Sampler:
    """Chooses one token for each of a microbatch's sampled rows.

    What does not hang on the logits is decided here, on the host: whoever asks a device waits until
    it has caught up.
    """

    def __init__(self, sampling: Sampling, vocab_size: int, allowed: Allowed | None = None) -> None:
        """Prepare, before the logits are there.

        Raises:
            WireError: A token id of the history or the biases is outside the vocabulary.
        """
        temperature, top_p = sampling.floats.numpy()[:, :2].T
        top_k, num_logprobs = sampling.ints.numpy()[:, :2].T
        random = np.flatnonzero(temperature > 0)
        filtered = np.flatnonzero((top_k[random] > 0) | (top_p[random] < 1))  # of the random ones
        self._max_top_k = int(top_k[random[filtered]].max(initial=0))
        self._num_top = min(max(int(num_logprobs.max(initial=0)) - 1, 0), vocab_size)
        needed = {
            "random": torch.from_numpy(random),
            "filtered": torch.from_numpy(filtered),
            "reported": torch.from_numpy(np.flatnonzero(num_logprobs > 0)),
            "history": _token_ids(sampling.history, vocab_size),
            "bias_tokens": _token_ids(sampling.bias_tokens, vocab_size),
            "bias_values": to_torch(sampling.bias_values),
        }
        if any(len(needed[name]) for name in ("random", "history", "bias_tokens")):
            needed |= {name: to_torch(getattr(sampling, name)) for name in _COLUMNS}
        if allowed is not None:
            needed |= allowed._asdict()
        self._needed = {name: tensor for name, tensor in needed.items() if len(tensor)}

    @property
    def inputs(self) -> list[torch.Tensor]:
        """What `choose` needs on the device of the logits."""
        return [*self._needed.values()]

    @torch.inference_mode()
    def choose(self, logits: torch.Tensor, inputs: Sequence[torch.Tensor]) -> Choices:
        """Choose one token per row, and tell its log-probability where wanted.

        Args:
            logits: Left as they are.
            inputs: On their device.

        Shapes:
            logits: [S, V] float32
        """
        given = dict(zip(self._needed, inputs, strict=True))
        adjusted = _adjust(logits, given)
        best, tokens = adjusted.max(1)  # NaN counts as the largest
        finite = best.isfinite()
        if "random" in given:
            random = given["random"]
            columns = _Columns.of(given).rows(random)
            tokens[random] = self._draw(adjusted[random], columns, given.get("filtered"))
        tokens.masked_fill_(~finite, 0)
        reports = self._report(logits, tokens, finite, given.get("reported"))
        return Choices(tokens.int(), finite.to(torch.int8), *reports)

    def _draw(
        self, logits: torch.Tensor, columns: _Columns, filtered: torch.Tensor | None
    ) -> torch.Tensor:
        """Draw by the inverse of the cumulative distribution, in the order of token ids.

        Shapes:
            logits: [S, V], filtered: [F] -> [S]
        """
        scaled = logits.double() / columns.temperature.unsqueeze(1)
        scaled -= scaled.amax(1, keepdim=True)  # the likeliest becomes 0
        scaled.masked_fill_(scaled < columns.min_p.double().log().unsqueeze(1), _NEVER)
        if filtered is not None:
            count = max(_USUAL_NUCLEUS, self._max_top_k)
            kept = _keep_top(logits[filtered], scaled[filtered], columns.rows(filtered), count)
            scaled[filtered] = kept
        # A cumulative sum runs along the row alone; `sum` would depend on the number of rows.
        cumulated = scaled.exp_().cumsum(1)  # [S, V]
        total = cumulated[:, -1:]
        below_total = torch.nextafter(total, torch.zeros_like(total))
        wanted = torch.minimum(columns.uniforms.unsqueeze(1) * total, below_total)
        tokens = torch.searchsorted(cumulated, wanted, right=True).squeeze(1)
        return tokens.clamp_(max=logits.shape[1] - 1)  # rows that are not finite

    def _report(
        self,
        logits: torch.Tensor,
        tokens: torch.Tensor,
        finite: torch.Tensor,
        rows: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Give log-probabilities of the logits as they came: of the tokens, and the likeliest ones.

        Shapes:
            logits: [S, V], tokens, finite: [S], rows: [R] -> [S], [S, K], [S, K]
        """
        logprobs = logits.new_zeros(len(tokens))
        top_tokens = tokens.new_zeros(len(tokens), self._num_top, dtype=torch.int32)
        top_logprobs = logits.new_zeros(len(tokens), self._num_top)
        if rows is not None:
            missing = ~finite[rows].unsqueeze(1)  # [R, 1]
            distribution = logits[rows].log_softmax(1)  # [R, V]
            chosen = distribution.gather(1, tokens[rows].unsqueeze(1))
            logprobs[rows] = chosen.masked_fill_(missing, 0.0).squeeze(1)
            likeliest = _likeliest(logits[rows], self._num_top)  # [R, K]
            top_logprobs[rows] = distribution.gather(1, likeliest).masked_fill_(missing, 0.0)
            top_tokens[rows] = likeliest.masked_fill(missing, 0).int()
        return logprobs, top_tokens, top_logprobs


def _token_ids(token_ids: Tensor, vocab_size: int) -> torch.Tensor:
    """Refuse what is outside the vocabulary: a GPU would not recover from it.

    Raises:
        WireError: Some are.
    """
    found = token_ids.numpy()
    low, high = int(found.min(initial=0)), int(found.max(initial=0))
    if low < 0 or high >= vocab_size:
        raise WireError(f"token ids from {low} to {high}, the vocabulary has {vocab_size}")
    return to_torch(token_ids)


def _adjust(logits: torch.Tensor, given: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Apply grammars, biases and penalties.

    Shapes:
        logits: [S, V] -> [S, V]
    """
    if "rows" in given:
        rows = given["rows"]
        possible = logits[rows].masked_fill_(~given["tokens"], _NEVER)
        logits = logits.index_copy(0, rows, possible)
    if "bias_tokens" in given:
        cells = _cells(logits, _Columns.of(given).num_biases, given["bias_tokens"])
        # Repeated token ids of an entry add up.
        logits = logits.flatten().index_add(0, cells, given["bias_values"]).view_as(logits)
    if "history" in given:
        logits = _penalise(logits, _Columns.of(given), given["history"])
    return logits


def _penalise(logits: torch.Tensor, columns: _Columns, history: torch.Tensor) -> torch.Tensor:
    """Apply the repetition penalty to all earlier tokens, the others to generated ones.

    Shapes:
        logits: [S, V], history: [N] -> [S, V]
    """
    lengths = columns.num_prompt + columns.num_output  # [S]
    cells = _cells(logits, lengths, history)  # [N]
    offsets = torch.arange(len(cells), device=cells.device)
    first_generated = lengths.cumsum(0) - lengths + columns.num_prompt  # [S]
    generated = offsets >= first_generated.repeat_interleave(lengths, output_size=len(cells))
    seen, which = torch.unique(cells, return_inverse=True)  # [C], [N]
    counts = torch.zeros_like(seen, dtype=torch.float32).index_add(0, which, generated.float())
    entry = seen // logits.shape[1]  # [C]
    flat = logits.flatten().clone()  # [S V]
    values, repetition = flat[seen], columns.repetition[entry]
    values = torch.where(values > 0, values / repetition, values * repetition)
    values -= columns.frequency[entry] * counts
    values -= columns.presence[entry] * (counts > 0)
    flat[seen] = values
    return flat.view_as(logits)


def _cells(logits: torch.Tensor, counts: torch.Tensor, token_ids: torch.Tensor) -> torch.Tensor:
    """Find the places of token ids in the flattened logits.

    Shapes:
        counts: [S], token_ids: [sum of counts] -> the same
    """
    rows = torch.arange(len(logits), device=logits.device)
    entry = rows.repeat_interleave(counts, output_size=len(token_ids))
    return entry * logits.shape[1] + token_ids


def _keep_top(
    logits: torch.Tensor, scaled: torch.Tensor, columns: _Columns, count: int
) -> torch.Tensor:
    """Forbid what is not among the top_k tokens or not in the nucleus of top_p.

    Tokens as likely as the k-th stay; of the last ones in the nucleus, the lowest ids stay.

    Args:
        logits: What the tokens are ranked by.
        scaled: What they are drawn by.
        columns: Of these rows.
        count: Tokens to rank, at least the largest top_k; if they are too few, all are ranked.

    Shapes:
        logits, scaled: [S, V] -> [S, V]

    Source:
        Holtzman et al., The Curious Case of Neural Text Degeneration, section 3.1,
        arXiv:1904.09751
    """
    size = scaled.shape[1]
    count = min(count, size)
    order = _likeliest(logits, count)  # [S, count]
    values = scaled.gather(1, order)  # [S, count]
    last = columns.top_k.clamp(min=1, max=count).unsqueeze(1) - 1  # [S, 1]
    least = values.gather(1, last).masked_fill(columns.top_k.unsqueeze(1) < 1, _NEVER)  # [S, 1]
    total = scaled.masked_fill(scaled < least, _NEVER).exp().cumsum(1)[:, -1:]  # [S, 1]
    weights = values.exp()
    mass_before = weights.cumsum(1) - weights  # 0 for the likeliest
    outside = (values < least) | (mass_before >= columns.top_p.double().unsqueeze(1) * total)
    outside[:, 0] = False  # the likeliest always stays
    if count < size and not outside[:, -1].all():
        return _keep_top(logits, scaled, columns, size)
    return torch.full_like(scaled, _NEVER).scatter_(1, order, values.masked_fill(outside, _NEVER))


def _likeliest(logits: torch.Tensor, count: int) -> torch.Tensor:
    """Find the tokens of the largest logits; ties go to the lowest id, whatever the count.

    `topk` leaves the order of ties open, so it gets integers without ties: the logit's bits, made
    to rise with its value, above the token id counted from the end.

    Shapes:
        logits: [S, V] float32 -> [S, count]
    """
    bits = (logits + 0.0).view(torch.int32)  # -0.0 becomes 0.0
    rising = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits).long()
    size = logits.shape[1]
    keys = rising * size + torch.arange(size - 1, -1, -1, device=logits.device)
    return size - 1 - keys.topk(count, dim=1).values % size
