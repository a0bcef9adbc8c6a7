"""Stop strings: found with the token that completes them, and cut exactly."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.router.text.stop_strings import StopStrings
from services.router.text.tokens import Tokenizer
from tests.support.jobs import EOS, write_model


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return Tokenizer(write_model(tmp_path_factory.mktemp("model")))


def stops(tokenizer, *strings):
    return StopStrings(tokenizer.decoder(True), strings)


def ends(stop, tokens):
    """Give the first number of tokens that completes a string, and the string."""
    for count in range(1, len(tokens) + 1):
        string = stop.found(tokens[:count])
        if string is not None:
            return count, string
    return None


def test_a_string_over_several_tokens_is_found_with_its_last(tokenizer):
    tokens = tokenizer.encode("héllo wörld", add_special_tokens=False)

    assert ends(stops(tokenizer, "o wö"), tokens) == (len("héllo wö".encode()), "o wö")


def test_the_first_in_the_lines_order_wins(tokenizer):
    tokens = tokenizer.encode("abc", add_special_tokens=False)

    assert stops(tokenizer, "c", "bc").found(tokens) == "c"
    assert stops(tokenizer, "bc", "c").found(tokens) == "bc"


def test_what_was_complete_before_the_last_token_does_not_count(tokenizer):
    tokens = tokenizer.encode("ab.", add_special_tokens=False)

    assert stops(tokenizer, "ab").found(tokens) is None


def test_the_text_is_cut_before_the_string_or_behind_it(tokenizer):
    stop = stops(tokenizer, "--")
    tokens = tokenizer.encode("ab-c--", add_special_tokens=False)

    assert stop.cut(tokens, "--", include=False) == "ab-c"
    assert stop.cut(tokens, "--", include=True) == "ab-c--"


def test_an_earlier_occurrence_is_kept_where_min_tokens_let_it_pass(tokenizer):
    tokens = tokenizer.encode("a.b.", add_special_tokens=False)

    assert stops(tokenizer, ".").cut(tokens, ".", include=False) == "a.b"


def test_special_tokens_are_no_text(tokenizer):
    tokens = (*tokenizer.encode("ab", add_special_tokens=False), EOS)

    assert stops(tokenizer, "</s>").found(tokens) is None


LETTERS = st.text("aé€.", max_size=12)


@given(text=LETTERS, strings=st.lists(st.text("aé€.", min_size=1, max_size=3), min_size=1))
def test_the_tail_says_what_the_whole_text_says(tokenizer, text, strings):
    tokens = tokenizer.encode(text, add_special_tokens=False)
    stop = stops(tokenizer, *strings)
    expected = min(
        (len(text[: text.index(string) + len(string)].encode()) for string in strings
         if string in text),
        default=None,
    )  # fmt: skip

    found = ends(stop, tokens)

    assert (found[0] if found else None) == expected
    if found:
        kept = stop.cut(tokens[: found[0]], found[1], include=False)
        assert text.startswith(kept + found[1])
