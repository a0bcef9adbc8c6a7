"""The shipped model's tokenizer and chat template against the plain vocabulary."""

import jinja2
import pytest

from examples.tiny.export import CHAT_TEMPLATE, build_tokenizer
from examples.tiny.vocabulary import TOKEN_IDS, UNKNOWN, decode, encode, render_turn

TEXTS = [
    "",
    "add: 123 456",
    "  two  spaces,\na line and a trailing space ",
    "<s><|user|>reverse: fern<|assistant|>nref</s>",
    "<|user>|> is not special",
    "".join(map(chr, range(32, 127))),
]


@pytest.mark.parametrize("text", TEXTS)
def test_text_comes_back_exactly(text: str) -> None:
    tokenizer = build_tokenizer()

    token_ids = tokenizer.encode(text).ids

    assert tokenizer.decode(token_ids, skip_special_tokens=False) == decode(token_ids) == text


@pytest.mark.parametrize("text", [*TEXTS, "naïve – 漢字"])
def test_tokenizer_and_vocabulary_agree(text: str) -> None:
    assert build_tokenizer().encode(text).ids == encode(text)


def test_a_foreign_character_is_one_unknown_token() -> None:
    assert encode("aïa") == [TOKEN_IDS["a"], TOKEN_IDS[UNKNOWN], TOKEN_IDS["a"]]


def test_the_chat_template_writes_what_training_writes() -> None:
    messages = [
        {"role": "system", "content": "quiet please"},
        {"role": "user", "content": "sort: fern"},
        {"role": "assistant", "content": "efnr"},
        {"role": "user", "content": "upper: oak"},
    ]

    template = jinja2.Environment().from_string(CHAT_TEMPLATE)
    text = template.render(messages=messages, add_generation_prompt=True)

    assert text == "<s>" + render_turn("quiet please\nsort: fern", "efnr") + render_turn(
        "upper: oak"
    )
