"""What bodies say about the form of an answer."""

import json

import pytest

from common.errors import LineRefused
from services.router.text.line_parser import LineParser
from services.router.text.tokens import Tokenizer
from tests.support.jobs import chat, completion, facts, served, write_model

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}


@pytest.fixture(scope="module")
def parser(tmp_path_factory):
    model = write_model(tmp_path_factory.mktemp("model"))
    return LineParser(served(model), Tokenizer(model))


def grammar(parser, text):
    return parser.parse(facts(), 0, text).grammar


def refusal(parser, text):
    with pytest.raises(LineRefused) as caught:
        parser.parse(facts(), 0, text)
    return caught.value


def test_free_text_has_no_grammar(parser):
    assert grammar(parser, completion()) is None
    assert grammar(parser, chat(response_format={"type": "text"})) is None


def test_every_spelling_of_a_schema_is_the_same_grammar(parser):
    spellings = [
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "x", "schema": SCHEMA},
            }
        },
        {"structured_outputs": {"json": SCHEMA}},
        {"structured_outputs": {"json": json.dumps(SCHEMA)}},
        {"guided_json": SCHEMA},
    ]

    grammars = {grammar(parser, chat(**spelling)) for spelling in spellings}

    assert len(grammars) == 1
    assert None not in grammars


@pytest.mark.parametrize(
    "form",
    [
        {"response_format": {"type": "json_object"}},
        {"structured_outputs": {"regex": r"\d{3}-[a-z]+"}},
        {"structured_outputs": {"choice": ["yes", "no"]}},
        {"structured_outputs": {"grammar": 'root ::= "a" | "b"'}},
        {"structured_outputs": {"json_object": True}},
        {"guided_regex": "a+"},
        {"guided_choice": ["a"]},
        {"guided_grammar": 'start: "a"'},
    ],
)
def test_other_forms_become_grammars(parser, form):
    assert grammar(parser, completion(**form))


@pytest.mark.parametrize(
    ("form", "param"),
    [
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"guided_json": {"type": "nonsense"}}, "guided_json"),
        ({"guided_json": "{"}, "guided_json"),
        ({"structured_outputs": {"regex": "(a"}}, "structured_outputs.regex"),
        ({"structured_outputs": {"choice": []}}, "structured_outputs.choice"),
        ({"guided_regex": "a", "guided_choice": ["a"]}, "guided_regex"),
        ({"guided_regex": "a", "min_tokens": 3}, "min_tokens"),
        ({"guided_choice": ["a" * 70_000]}, "guided_choice"),
    ],
)
def test_a_form_that_cannot_be_followed_is_refused(parser, form, param):
    assert refusal(parser, completion(**form)).param == param
