"""Grammars on the sampling range: what may come next depends on the tokens so far, and on nothing else."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from llguidance import grammar_from

from common.errors import ModelRefused, WireError
from common.messages import Grammars, Tensor
from services.layer_worker import grammars
from services.layer_worker.grammars import GrammarMasks
from tests.support.processes import SHIPPED
from tests.support.sampling import sample
from tests.support.step import int32, sampling_of

VOCAB_SIZE, EOS = 101, 2
TOKENS = json.loads((SHIPPED / "tokenizer.json").read_text())["model"]["vocab"]
YES_OR_NO = grammar_from("choice", '["yes", "no", "yesterday"]')
NUMBER = grammar_from("regex", "[0-9]{2,4}")


@pytest.fixture
def masks() -> GrammarMasks:
    return GrammarMasks(SHIPPED, VOCAB_SIZE, (EOS,))


def ids(text: str) -> list[int]:
    return [TOKENS[character] for character in text]


def asked(*entries: tuple[int, int, str, list[int]]) -> Grammars:
    """Ask for entries of (place, request, grammar, tokens)."""
    texts = list(dict.fromkeys(text for _, _, text, _ in entries))
    encoded = [text.encode() for text in texts]
    rows = [
        (place, request, texts.index(text), len(tokens)) for place, request, text, tokens in entries
    ]
    return Grammars(
        entries=int32(rows),
        tokens=int32([token for *_, tokens in entries for token in tokens]),
        texts=Tensor.of(np.frombuffer(b"".join(encoded), np.int8)),
        text_sizes=int32([len(text) for text in encoded]),
    )


def told(masks: GrammarMasks, text: str, tokens: list[int], request: int = 7) -> str:
    """Name the tokens that may come next, the end of the sequence as a dot."""
    allowed = masks.allowed(asked((0, request, text, tokens))).tokens[0].nonzero().squeeze(1)
    names = {number: character for character, number in TOKENS.items()} | {EOS: "."}
    return "".join(sorted(names[number] for number in allowed.tolist()))


def test_a_grammar_says_what_may_come_next(masks: GrammarMasks) -> None:
    assert told(masks, YES_OR_NO, []) == "ny"
    assert told(masks, YES_OR_NO, ids("y")) == "e"
    assert told(masks, YES_OR_NO, ids("yes")) == ".t"
    assert told(masks, YES_OR_NO, ids("no")) == "."


def test_behind_the_end_there_is_only_the_end(masks: GrammarMasks) -> None:
    assert told(masks, YES_OR_NO, [*ids("no"), EOS]) == "."


def test_tokens_outside_the_grammar_leave_nothing_to_choose(masks: GrammarMasks) -> None:
    assert told(masks, YES_OR_NO, ids("x")) == ""
    assert told(masks, YES_OR_NO, [*ids("x"), *ids("y")]) == ""


def test_entries_of_one_microbatch_have_grammars_of_their_own(masks: GrammarMasks) -> None:
    allowed = masks.allowed(
        asked((1, 7, YES_OR_NO, ids("y")), (4, 8, NUMBER, []), (5, 9, YES_OR_NO, []))
    )

    assert allowed.rows.tolist() == [1, 4, 5]
    assert allowed.tokens.sum(1).tolist() == [1, 10, 2]


def test_a_request_that_went_another_way_begins_anew(masks: GrammarMasks) -> None:
    told(masks, YES_OR_NO, ids("ye"))

    assert told(masks, YES_OR_NO, ids("n")) == "o"
    assert told(masks, NUMBER, []) == "0123456789"


@given(steps=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 100)), max_size=25))
def test_what_was_asked_before_changes_no_answer(steps: list[tuple[int, int]]) -> None:
    schema = {"type": "object", "properties": {"a": {"enum": ["x", "y"]}, "b": {"type": "integer"}}}
    text = grammar_from("json_schema", json.dumps(schema))
    kept = GrammarMasks(SHIPPED, VOCAB_SIZE, (EOS,))
    spelled: dict[int, list[int]] = {0: [], 1: [], 2: []}
    for request, chosen in steps:
        tokens = spelled[request]
        allowed = kept.allowed(asked((0, request, text, tokens))).tokens
        fresh = GrammarMasks(SHIPPED, VOCAB_SIZE, (EOS,)).allowed(asked((0, 9, text, tokens)))

        assert torch.equal(allowed, fresh.tokens)
        possible = allowed[0].nonzero().squeeze(1).tolist()
        tokens.append(possible[chosen % len(possible)])


def test_only_so_many_matchers_are_kept(
    masks: GrammarMasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grammars, "MAX_MATCHERS", 2)
    for request in range(4):
        told(masks, YES_OR_NO, ids("y"), request)

    assert len(masks._positions) == 2
    assert told(masks, YES_OR_NO, ids("ye"), request=0) == "s"


def test_a_token_that_the_model_does_not_have_is_refused(masks: GrammarMasks) -> None:
    with pytest.raises(WireError, match="token 101"):
        masks.allowed(asked((0, 7, YES_OR_NO, [101])))


def test_a_grammar_that_is_no_text_is_refused(masks: GrammarMasks) -> None:
    bad = asked((0, 7, "xx", []))
    bad = Grammars(
        entries=bad.entries,
        tokens=bad.tokens,
        texts=Tensor.of(np.array([-1, -2], np.int8)),
        text_sizes=bad.text_sizes,
    )

    with pytest.raises(WireError, match="not UTF-8"):
        masks.allowed(bad)


def test_a_grammar_that_is_none_leaves_nothing_to_choose(masks: GrammarMasks) -> None:
    assert told(masks, "not a grammar", []) == ""


def test_a_checkpoint_without_a_tokenizer_has_no_grammars(tmp_path) -> None:
    with pytest.raises(ModelRefused, match="grammars need a tokenizer"):
        GrammarMasks(tmp_path, VOCAB_SIZE, (EOS,))


def test_the_likeliest_allowed_token_is_chosen_and_other_rows_are_free(
    masks: GrammarMasks,
) -> None:
    logits = torch.zeros(2, VOCAB_SIZE)
    logits[:, TOKENS["x"]] = 9.0
    logits[:, TOKENS["n"]] = 1.0
    bound = asked((1, 7, YES_OR_NO, []))

    choices = sample(logits, sampling_of(2, grammars=bound), masks.allowed(bound))

    assert choices.tokens.tolist() == [TOKENS["x"], TOKENS["n"]]
    assert choices.finite.tolist() == [1, 1]
    assert logits[1].isfinite().all()


def test_a_row_that_may_choose_nothing_is_not_finite(masks: GrammarMasks) -> None:
    bound = asked((0, 7, YES_OR_NO, ids("x")))

    choices = sample(
        torch.zeros(1, VOCAB_SIZE), sampling_of(1, grammars=bound), masks.allowed(bound)
    )

    assert choices.finite.tolist() == [0]
