"""A streamed answer: its pieces are those of the whole one, and every one can be told."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.router.lines import ChoiceOutcome, LineFinished, Streaming, TokenStreamed
from services.router.text.pieces import PieceWriter
from services.router.text.results import answer_body
from services.router.text.stop_strings import StopStrings
from services.router.text.tokens import Tokenizer
from tests.support.jobs import EOS, JOB, logprobs, parsed_line, stop_rules, write_model


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return Tokenizer(write_model(tmp_path_factory.mktemp("model")))


def streamed_line(**changes):
    return parsed_line(streaming=Streaming(include_usage=False), **changes)


def outcome(token_ids, stop_reason=None, columns=None):
    reason = "length" if stop_reason is None else "stop"
    return ChoiceOutcome(
        token_ids=tuple(token_ids), finish_reason=reason, stop_reason=stop_reason, logprobs=columns
    )


def events(ended, choice=0, columns=None):
    """What the state tells about a choice, token by token."""
    last = len(ended.token_ids) - 1
    return [
        TokenStreamed(
            job_id=JOB,
            choice=choice,
            token_id=token_id,
            logprobs=columns and columns[place],
            ended=ended if place == last else None,
        )
        for place, token_id in enumerate(ended.token_ids)
    ]


def pieces(line, tokenizer, ended):
    writer = PieceWriter(line, tokenizer, created=5)
    chunks = [chunk for event in events(ended) for chunk in writer.token(event)]
    return [chunk["choices"][0]["text"] for chunk in chunks]


def whole(line, tokenizer, ended):
    body = answer_body(LineFinished(line=line, choices=(ended,)), tokenizer, created=5)
    return body["choices"][0]["text"]


def test_a_character_of_several_tokens_comes_when_it_is_whole(tokenizer):
    tokens = tokenizer.encode("aé🎉b", add_special_tokens=False)

    assert [piece for piece in pieces(streamed_line(), tokenizer, outcome(tokens)) if piece] == [
        "a", "é", "🎉", "b",
    ]  # fmt: skip


def test_what_may_begin_a_stop_string_waits_until_it_does_not(tokenizer):
    line = streamed_line(stop=stop_rules(strings=("STOP",)))
    tokens = tokenizer.encode("aSTxSTOP", add_special_tokens=False)

    told = pieces(line, tokenizer, outcome(tokens, "STOP"))

    assert told == ["a", "STx", ""]


@given(
    text=st.text(st.sampled_from("abSTOP é🎉\ufffd"), min_size=1, max_size=12),
    noise=st.lists(st.integers(0, 255), max_size=3),
    include=st.booleans(),
)
def test_the_pieces_of_a_text_are_the_text(tokenizer, text, noise, include):
    strings = ("STOP", "Sa", "é🎉")
    line = streamed_line(stop=stop_rules(strings=strings, include_in_text=include))
    tokens = [*noise, *tokenizer.encode(text, add_special_tokens=False)]
    finder = StopStrings(tokenizer.decode, strings)
    ended = outcome(tokens)
    for length in range(1, len(tokens) + 1):
        if (found := finder.found(tokens[:length])) is not None:
            ended = outcome(tokens[:length], found)
            break

    assert "".join(pieces(line, tokenizer, ended)) == whole(line, tokenizer, ended)


def test_the_end_of_sequence_has_no_text_and_ends_the_choice(tokenizer):
    writer = PieceWriter(streamed_line(), tokenizer, created=5)
    tokens = (*tokenizer.encode("a", add_special_tokens=False), EOS)
    ended = ChoiceOutcome(token_ids=tokens, finish_reason="stop", stop_reason=None, logprobs=None)

    last = [writer.token(event) for event in events(ended)][-1][0]["choices"][0]

    assert (last["text"], last["finish_reason"]) == ("", "stop")


def test_a_chat_begins_with_who_speaks_and_ends_with_the_usage(tokenizer):
    line = parsed_line(kind="chat", streaming=Streaming(include_usage=True), n=2)
    writer = PieceWriter(line, tokenizer, created=5)
    ended = outcome([97])

    first = writer.first()
    tokens = [writer.token(event)[0] for choice in (0, 1) for event in events(ended, choice)]
    (last,) = writer.last(LineFinished(line=line, choices=(ended, ended)))

    assert [chunk["choices"][0]["delta"]["role"] for chunk in first] == ["assistant"] * 2
    assert [chunk["choices"][0]["index"] for chunk in tokens] == [0, 1]
    assert (tokens[0]["object"], tokens[0]["usage"]) == ("chat.completion.chunk", None)
    assert (last["choices"], last["usage"]["completion_tokens"]) == ([], 2)


def test_logprobs_and_token_ids_come_with_their_token(tokenizer):
    line = streamed_line(return_token_ids=True)
    writer = PieceWriter(line, tokenizer, created=5)
    rows = [logprobs((-0.5, (), ())), logprobs((-1.5, (), ()))]
    ended = outcome(tokenizer.encode("é", add_special_tokens=False))

    chunks = [writer.token(event)[0]["choices"][0] for event in events(ended, columns=rows)]

    assert [chunk["text"] for chunk in chunks] == ["", "é"]
    assert [chunk["logprobs"]["token_logprobs"] for chunk in chunks] == [[-0.5], [-1.5]]
    assert [chunk["token_ids"] for chunk in chunks] == [[token] for token in ended.token_ids]
