"""A checkpoint's tokenizer and chat template, compared with transformers."""

import json

import pytest

from common.errors import LineRefused, ModelRefused
from services.router.text.chat_template import ChatTemplate
from services.router.text.tokens import Tokenizer
from tests.support.jobs import write_model

MESSAGES = [{"role": "user", "content": "hi"}]


def test_a_template_file_goes_before_the_configuration(tmp_path):
    directory = write_model(tmp_path)
    (directory / "chat_template.jinja").write_text("{{ eos_token }}{{ messages[0].content }}")

    assert Tokenizer(directory).render_chat(MESSAGES, {}) == "</s>hi"


def test_tools_take_the_template_made_for_them(tmp_path):
    directory = write_model(tmp_path)
    named = [{"name": "default", "template": "plain"}, {"name": "tool_use", "template": "tools"}]
    (directory / "tokenizer_config.json").write_text(json.dumps({"chat_template": named}))
    tokenizer = Tokenizer(directory)

    assert tokenizer.render_chat(MESSAGES, {}) == "plain"
    assert tokenizer.render_chat(MESSAGES, {"tools": [{}]}) == "tools"


@pytest.mark.parametrize(
    "source",
    [
        "{{ raise_exception('roles must alternate') }}",
        "{{ messages[0].content + 1 }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{% for i in range(10**9) %}{% endfor %}",
        "{{ messages.append(1) }}",
        "{{ 1 // 0 }}",
        "{{ nothing.at.all }}",
    ],
)
def test_a_template_that_fails_refuses_the_line(source):
    template = ChatTemplate(source, {})

    with pytest.raises(LineRefused, match="does not take these messages"):
        template.render(MESSAGES, {})


def test_generation_marks_and_loop_controls_are_understood():
    source = "{% for m in messages %}{% generation %}{{ m.role }}{% endgeneration %}{% break %}{% endfor %}"

    assert ChatTemplate(source, {}).render([*MESSAGES, *MESSAGES], {}) == "user"


def test_the_date_can_be_asked_for():
    assert len(ChatTemplate("{{ strftime_now('%Y') }}", {}).render(MESSAGES, {})) == 4


def test_a_template_that_is_not_valid_refuses_the_model():
    with pytest.raises(ModelRefused, match="not valid"):
        ChatTemplate("{% if %}", {})


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_a_broken_file_refuses_the_model(tmp_path, name):
    directory = write_model(tmp_path)
    (directory / name).write_text("{")

    with pytest.raises(ModelRefused, match=name):
        Tokenizer(directory)


def test_without_a_tokenizer_tokens_go_by_their_number(tmp_path):
    tokenizer = Tokenizer(write_model(tmp_path, tokenizer=False))

    assert not tokenizer.knows_text
    assert tokenizer.decode([1]) == ""
    assert tokenizer.token_text(7) == "token_id:7"


@pytest.mark.slow
def test_prompts_are_those_of_transformers(tmp_path):
    from transformers import PreTrainedTokenizerFast

    directory = write_model(tmp_path)
    template = (
        "{{ bos_token }}{% for m in messages %}\n  {%- if m.role == 'user' %}\n{{ m.content }}"
        "\n  {% endif %}\n{% endfor %}{% if add_generation_prompt %}>{% endif %}{{ tools | tojson }}"
    )
    config = {"bos_token": "</s>", "eos_token": "</s>", "chat_template": template}
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    theirs = PreTrainedTokenizerFast.from_pretrained(directory)
    ours = Tokenizer(directory)
    tools = [{"type": "function", "function": {"name": "é<>"}}]

    text = ours.render_chat(MESSAGES, {"tools": tools, "add_generation_prompt": True})

    expected = theirs.apply_chat_template(
        MESSAGES, tools=tools, add_generation_prompt=True, tokenize=False
    )
    assert text == expected
    assert list(ours.encode(text, add_special_tokens=False)) == theirs.encode(
        expected, add_special_tokens=False
    )
