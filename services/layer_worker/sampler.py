"""Chooses the next tokens from logits, for all entries at once.

A row's result depends on its logits, its parameters and its uniform number alone, never on the
other rows. The steps and their order are vLLM's: grammar, bias, penalties, temperature, min_p,
top_k, top_p.
"""

from typing import NamedTuple

import torch

from common.errors import WireError
from common.messages.step import Sampling
from common.messages.tensor import Tensor
from services.layer_worker.torch_tensor import to_torch

_NEVER = float("-inf")

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
    def of(cls, sampling: Sampling, device: torch.device) -> "_Columns":
        floats = to_torch(sampling.floats).to(device)  # [S, 6]
        ints = to_torch(sampling.ints).to(device, torch.int64)  # [S, 5]
        uniforms = to_torch(sampling.uniforms).to(device)  # [S]
        return cls._make([*floats.unbind(1), *ints.unbind(1), uniforms])

    def rows(self, rows: torch.Tensor) -> "_Columns":
        return _Columns(*(column[rows] for column in self))


class Allowed(NamedTuple):
    """The tokens that some rows may choose; the others may choose any."""

    rows: torch.Tensor
    """int64 [C]"""
    tokens: torch.Tensor
    """bool [C, V]"""


@torch.inference_mode()
def sample(logits: torch.Tensor, sampling: Sampling, allowed: Allowed | None = None) -> Choices:
    """Choose one token per row of the logits, and tell its log-probability where wanted.

    Shapes:
        logits: [S, V] float32, left as they are

    Raises:
        WireError: A token id of the history or the biases is outside the vocabulary.
    """
    columns = _Columns.of(sampling, logits.device)
    possible = logits if allowed is None else _forbid(logits, allowed)
    adjusted = _penalise(_bias(possible, columns, sampling), columns, sampling)  # [S, V]
    best, tokens = adjusted.max(1)  # NaN counts as the largest
    finite = best.isfinite()
    random = columns.temperature.gt(0).nonzero().squeeze(1)  # rows
    if len(random):
        tokens[random] = _draw(adjusted[random], columns.rows(random))
    tokens.masked_fill_(~finite, 0)
    return Choices(tokens.int(), finite.to(torch.int8), *_report(logits, tokens, finite, columns))


def _forbid(logits: torch.Tensor, allowed: Allowed) -> torch.Tensor:
    """Take away what a row may not choose."""
    rows = allowed.rows.to(logits.device)
    forbidden = ~allowed.tokens.to(logits.device)
    return logits.index_copy(0, rows, logits[rows].masked_fill_(forbidden, _NEVER))


def _bias(logits: torch.Tensor, columns: _Columns, sampling: Sampling) -> torch.Tensor:
    """Move single logits; repeated token ids of an entry add up."""
    if not sampling.bias_tokens.shape[0]:
        return logits
    cells = _cells(logits, columns.num_biases, sampling.bias_tokens)  # [B]
    values = to_torch(sampling.bias_values).to(logits.device)
    return logits.flatten().index_add(0, cells, values).view_as(logits)


def _penalise(logits: torch.Tensor, columns: _Columns, sampling: Sampling) -> torch.Tensor:
    """Apply the repetition penalty to all earlier tokens, the others to generated ones."""
    if not sampling.history.shape[0]:
        return logits
    lengths = columns.num_prompt + columns.num_output  # [S]
    cells = _cells(logits, lengths, sampling.history)  # [N]
    offsets = torch.arange(len(cells), device=cells.device)
    first_cells = lengths.cumsum(0) - lengths  # [S]
    generated = offsets >= (first_cells + columns.num_prompt).repeat_interleave(lengths)  # [N]
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


def _cells(logits: torch.Tensor, counts: torch.Tensor, token_ids: Tensor) -> torch.Tensor:
    """Find the places of token ids in the flattened logits.

    Shapes:
        counts: [S], token_ids: [sum of counts] -> the same
    """
    tokens = to_torch(token_ids).to(logits.device, torch.int64)
    size = logits.shape[1]
    low, high = tokens.aminmax()
    # A GPU would not recover from an index out of range.
    if low < 0 or high >= size:
        message = f"token ids from {int(low)} to {int(high)}, the vocabulary has {size}"
        raise WireError(message)
    return torch.arange(len(logits), device=tokens.device).repeat_interleave(counts) * size + tokens


def _draw(logits: torch.Tensor, columns: _Columns) -> torch.Tensor:
    """Draw by the inverse of the cumulative distribution, in the order of token ids.

    Shapes:
        logits: [S, V] -> [S]
    """
    scaled = logits.double() / columns.temperature.unsqueeze(1)
    scaled -= scaled.amax(1, keepdim=True)  # the likeliest becomes 0
    scaled.masked_fill_(scaled < columns.min_p.double().log().unsqueeze(1), _NEVER)
    filtered = ((columns.top_k > 0) | (columns.top_p < 1)).nonzero().squeeze(1)
    if len(filtered):
        of_filtered = columns.rows(filtered)
        count = max(_USUAL_NUCLEUS, int(of_filtered.top_k.max()))
        kept = _keep_top(logits[filtered], scaled[filtered], of_filtered, count)
        scaled[filtered] = kept
    # A cumulative sum runs along the row alone; `sum` would depend on the number of rows.
    cumulated = scaled.exp_().cumsum(1)  # [S, V]
    total = cumulated[:, -1:]
    below_total = torch.nextafter(total, torch.zeros_like(total))
    wanted = torch.minimum(columns.uniforms.unsqueeze(1) * total, below_total)
    tokens = torch.searchsorted(cumulated, wanted, right=True).squeeze(1)
    return tokens.clamp_(max=logits.shape[1] - 1)  # rows that are not finite


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


def _report(
    logits: torch.Tensor, tokens: torch.Tensor, finite: torch.Tensor, columns: _Columns
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Give log-probabilities of the logits as they came: of the tokens, and the likeliest ones.

    Shapes:
        logits: [S, V], tokens: [S] -> [S], [S, K], [S, K]
    """
    num_top = int(columns.num_logprobs.max()) - 1 if len(tokens) else 0
    num_top = min(max(num_top, 0), logits.shape[1])
    logprobs = logits.new_zeros(len(tokens))
    top_tokens = tokens.new_zeros(len(tokens), num_top, dtype=torch.int32)
    top_logprobs = logits.new_zeros(len(tokens), num_top)
    rows = ((columns.num_logprobs > 0) & finite).nonzero().squeeze(1)
    if len(rows):
        distribution = logits[rows].log_softmax(1)  # [rows, V]
        logprobs[rows] = distribution.gather(1, tokens[rows].unsqueeze(1)).squeeze(1)
        likeliest = _likeliest(logits[rows], num_top)  # [rows, K]
        top_tokens[rows] = likeliest.int()
        top_logprobs[rows] = distribution.gather(1, likeliest)
    return logprobs, top_tokens, top_logprobs


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
