"""The sampler against a reference that takes one row at a time, in plain Python."""

import math
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import WireError
from services.layer_worker import sampler
from services.layer_worker.sampler import Choices
from tests.support.sampling import sample
from tests.support.step import sampling_of

V = 12
NAN, INF = float("nan"), float("inf")


@dataclass
class Row:
    """One entry: its logits, and everything that decides about its token."""

    logits: list[float] = field(default_factory=lambda: [float(id) for id in range(V)])
    temperature: float = 0.0
    top_p: float = 1.0
    min_p: float = 0.0
    presence: float = 0.0
    frequency: float = 0.0
    repetition: float = 1.0
    top_k: int = 0
    num_logprobs: int = 0
    prompt: list[int] = field(default_factory=list)
    output: list[int] = field(default_factory=list)
    biases: list[tuple[int, float]] = field(default_factory=list)
    uniform: float = 0.5


def choose(*rows: Row) -> Choices:
    logits = torch.tensor([row.logits for row in rows], dtype=torch.float32)
    before = logits.clone()
    choices = sample(logits, columns_of(rows))
    assert torch.equal(logits.nan_to_num(), before.nan_to_num())
    return choices


def columns_of(rows):
    return sampling_of(
        len(rows),
        floats=[
            (r.temperature, r.top_p, r.min_p, r.presence, r.frequency, r.repetition) for r in rows
        ],
        ints=[(r.top_k, r.num_logprobs, len(r.prompt), len(r.output), len(r.biases)) for r in rows],
        uniforms=[r.uniform for r in rows],
        history=[token for r in rows for token in r.prompt + r.output],
        bias_tokens=[token for r in rows for token, _ in r.biases],
        bias_values=[value for r in rows for _, value in r.biases],
    )


def reference(row: Row) -> tuple[set[int], list[float]]:
    """Give the tokens that are right (neighbours, where rounding decides), and the log-softmax."""
    logits = [float(np.float32(logit)) for logit in row.logits]
    raw = log_softmax(logits)
    for token, value in row.biases:
        logits[token] += value
    for token in set(row.prompt + row.output):
        logits[token] *= 1 / row.repetition if logits[token] > 0 else row.repetition
    for token in set(row.output):
        logits[token] -= row.presence + row.frequency * row.output.count(token)
    if row.temperature == 0:
        near = max(logits) - 1e-5
        return {token for token in range(V) if logits[token] >= near}, raw
    return draw([logit / row.temperature for logit in logits], row), raw


def draw(scaled: list[float], row: Row) -> set[int]:
    best = max(scaled)
    weights = {token: math.exp(value - best) for token, value in enumerate(scaled)}
    kept = {token: weight for token, weight in weights.items() if weight >= row.min_p}
    ranked = sorted(kept, key=lambda token: (-scaled[token], token))
    if row.top_k:
        ranked = [token for token in ranked if scaled[token] >= scaled[ranked[: row.top_k][-1]]]
    total, mass, nucleus = sum(kept[token] for token in ranked), 0.0, set()
    for token in ranked:
        if nucleus and mass >= row.top_p * total:
            break
        nucleus.add(token)
        mass += kept[token]
    right, below = set(), 0.0
    for token in sorted(nucleus):
        if below - 1e-6 <= row.uniform * mass <= below + kept[token] + 1e-6:
            right.add(token)
        below += kept[token]
    return right


def log_softmax(logits: list[float]) -> list[float]:
    best = max(logits)
    total = best + math.log(sum(math.exp(logit - best) for logit in logits))
    return [logit - total for logit in logits]


# Steps of an eighth: ties are common, as with bf16 logits, and exact in every precision.
logit = st.integers(-40, 40).map(lambda eighths: eighths / 8)
token_ids = st.lists(st.integers(0, V - 1), max_size=6)
rows = st.builds(
    Row,
    logits=st.lists(logit, min_size=V, max_size=V),
    temperature=st.sampled_from([0.0, 0.5, 1.0, 2.0]),
    top_p=st.sampled_from([1.0, 0.93, 0.61, 0.17]),
    min_p=st.sampled_from([0.0, 0.0, 0.07, 0.31]),
    presence=st.sampled_from([0.0, 0.5, -1.0]),
    frequency=st.sampled_from([0.0, 0.25, -0.5]),
    repetition=st.sampled_from([1.0, 1.25, 0.5]),
    top_k=st.sampled_from([0, 0, 1, 3, V, 100]),
    num_logprobs=st.integers(0, V + 1),
    prompt=token_ids,
    output=token_ids,
    biases=st.lists(st.tuples(st.integers(0, V - 1), logit), max_size=4),
    uniform=st.floats(0, 1, exclude_max=True),
)


@settings(max_examples=20)
@given(batch=st.lists(rows, min_size=1, max_size=5))
def test_each_row_gets_the_token_and_logprobs_of_the_reference(batch):
    choices = choose(*batch)

    for index, row in enumerate(batch):
        right, raw = reference(row)
        token = int(choices.tokens[index])
        assert token in right
        assert choices.finite[index] == 1
        num_top = max(row.num_logprobs - 1, 0)
        best = sorted(range(V), key=lambda token, raw=raw: (-raw[token], token))[:num_top]
        assert choices.top_tokens[index, :num_top].tolist() == best
        wanted = [raw[token] if row.num_logprobs else 0.0, *(raw[token] for token in best)]
        told = [choices.logprobs[index], *choices.top_logprobs[index, :num_top]]
        assert [float(each) for each in told] == pytest.approx(wanted, abs=1e-5)


@settings(max_examples=20)
@given(batch=st.lists(rows, min_size=2, max_size=6))
def test_a_row_alone_gets_bit_for_bit_what_it_gets_among_others(batch):
    together = choose(*batch)

    for index, row in enumerate(batch):
        alone = choose(row)
        num_top = alone.top_tokens.shape[1]
        assert alone.tokens[0] == together.tokens[index]
        assert alone.logprobs[0] == together.logprobs[index]
        assert torch.equal(alone.top_tokens[0], together.top_tokens[index, :num_top])
        assert torch.equal(alone.top_logprobs[0], together.top_logprobs[index, :num_top])


@settings(max_examples=20)
@given(batch=st.lists(rows, min_size=1, max_size=5))
def test_ranking_few_tokens_at_first_changes_no_choice(batch):
    ranking_all = choose(*batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampler, "_USUAL_NUCLEUS", 2)
        ranking_few = choose(*batch)

    assert torch.equal(ranking_few.tokens, ranking_all.tokens)


def test_the_draw_follows_the_distribution():
    logits = [0.0, 1.0, 2.0, -INF] + [-INF] * (V - 4)
    uniforms = (np.arange(4096) + 0.5) / 4096

    choices = choose(*(Row(logits, temperature=1.0, uniform=uniform) for uniform in uniforms))

    shares = np.bincount(choices.tokens.numpy(), minlength=V) / len(uniforms)
    expected = np.exp([0.0, 1.0, 2.0]) / np.exp([0.0, 1.0, 2.0]).sum()
    assert shares[:3] == pytest.approx(expected, abs=1e-3)
    assert not shares[3:].any()


@pytest.mark.parametrize("uniform", [0.0, 0.5, math.nextafter(1.0, 0.0)])
def test_a_forbidden_token_is_never_drawn(uniform):
    forbidden = [(0, -INF), (V - 1, -INF)]
    row = Row([1.0] * V, temperature=1.0, biases=forbidden, uniform=uniform)

    token = int(choose(row).tokens[0])

    assert token not in (0, V - 1)


@pytest.mark.parametrize("logits", [[NAN] * V, [0.0, NAN] * (V // 2), [INF] * V, [-INF] * V])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_not_finite_are_flagged_and_hurt_no_other_row(logits, temperature):
    bad = Row(logits, temperature=temperature, num_logprobs=3, top_p=0.5)
    good = Row(temperature=temperature, num_logprobs=3, top_p=0.5)

    choices = choose(good, bad, good)

    assert choices.finite.tolist() == [1, 0, 1]
    assert choices.tokens.tolist() == [V - 1, 0, V - 1]
    assert choices.logprobs[1] == 0
    assert not choices.top_logprobs[1].any()


def test_forbidding_every_token_is_flagged_too():
    row = Row(temperature=1.0, biases=[(token, -INF) for token in range(V)])

    choices = choose(row)

    assert choices.finite.tolist() == [0]


def test_a_greedy_tie_goes_to_the_lowest_token_id():
    choices = choose(Row([0.0, 3.0, 3.0] + [0.0] * (V - 3)))

    assert choices.tokens.tolist() == [1]


def test_no_row_to_sample_gives_empty_columns():
    choices = sample(torch.empty(0, V), sampling_of(0))

    assert [tuple(column.shape) for column in choices] == [(0,), (0,), (0,), (0, 0), (0, 0)]


@pytest.mark.parametrize("token", [-1, V])
def test_token_ids_outside_the_vocabulary_are_refused(token):
    with pytest.raises(WireError, match="the vocabulary has 12"):
        choose(Row(prompt=[token], presence=1.0))
    with pytest.raises(WireError, match="the vocabulary has 12"):
        choose(Row(biases=[(token, 1.0)]))
