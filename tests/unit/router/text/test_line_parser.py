"""One line of a batch file: read with every default, or refused with the reason."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import LineRefused
from services.router.lines import ParsedLine
from services.router.text.line_parser import MAX_LINE_BYTES, LineDefaults, LineParser
from services.router.text.tokens import Tokenizer
from tests.support.jobs import EOS, chat, completion, facts, served, write_model


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def tokenizer(model):
    return Tokenizer(model)


@pytest.fixture(scope="module")
def parser(model, tokenizer):
    return LineParser(served(model), tokenizer)


def read(parser, text, **job) -> ParsedLine:
    return parser.parse(facts(**job), 0, text)


def refusal(parser, text, **job) -> LineRefused:
    with pytest.raises(LineRefused) as caught:
        read(parser, text, **job)
    return caught.value


def test_a_completion_has_the_defaults_of_vllm(parser):
    line = read(parser, completion())

    assert (line.kind, line.n, line.custom_id) == ("completion", 1, "a")
    assert (line.stop.max_tokens, line.stop.eos_token_ids) == (16, (EOS,))
    assert (line.sampling.temperature, line.sampling.top_p, line.sampling.top_k) == (1.0, 1.0, 0)


def test_a_default_limit_shrinks_to_the_room_that_is_left(parser):
    line = read(parser, completion(prompt=[5] * 95))

    assert line.stop.max_tokens == 5


def test_a_chat_may_fill_the_model_length(parser, tokenizer):
    line = read(parser, chat())

    (prompt,) = line.prompts
    assert tokenizer.decode(prompt) == "<user>hi<answer>"
    assert line.stop.max_tokens == 100 - len(prompt)


def test_the_template_sees_tools_and_its_own_variables(parser, tokenizer):
    line = read(parser, chat(tools=[{"a": "é<"}], chat_template_kwargs={"mood": "!", "self": 1}))

    assert tokenizer.decode(line.prompts[0]) == '<user>hi[{"a": "é<"}]!<answer>'


def test_text_parts_of_a_message_are_joined(parser, tokenizer):
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]

    line = read(parser, chat(messages=[{"role": "user", "content": parts}]))

    assert tokenizer.decode(line.prompts[0]) == "<user>one\ntwo<answer>"


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        ([1, 2], ((1, 2),)),
        ([[1, 2], [3]], ((1, 2), (3,))),
        ([[1, 2]], ((1, 2),)),
    ],
)
def test_prompts_may_be_token_ids(parser, prompt, prompts):
    line = read(parser, completion(prompt=prompt))

    assert line.prompts == prompts


def test_several_texts_are_several_prompts(parser, tokenizer):
    line = read(parser, completion(prompt=["one", "two"], n=2))

    assert [tokenizer.decode(prompt) for prompt in line.prompts] == ["one", "two"]
    assert line.n == 2


@pytest.mark.parametrize(("kept", "prompt"), [(2, (6, 7)), (9, (5, 6, 7)), (-1, (5, 6, 7))])
def test_a_prompt_is_cut_at_its_beginning(parser, kept, prompt):
    line = read(parser, completion(prompt=[5, 6, 7], truncate_prompt_tokens=kept))

    assert line.prompts == (prompt,)


def test_a_prompt_that_is_cut_to_the_models_length_leaves_room_for_a_token(parser):
    line = read(parser, completion(prompt=[5] * 300, truncate_prompt_tokens=-1, max_tokens=1))

    assert len(line.prompts[0]) == 99


def test_null_means_not_given(parser):
    line = read(parser, completion(temperature=None, max_tokens=None, unheard_of=None))

    assert line == read(parser, completion())


def test_a_tiny_temperature_is_greedy_and_ignores_the_filters(parser):
    sampling = read(parser, completion(temperature=0, top_k=5, top_p=0.5, min_p=0.1)).sampling

    assert (sampling.temperature, sampling.top_k, sampling.top_p, sampling.min_p) == (0, 0, 1, 0)


def test_every_parameter_arrives(parser):
    text = completion(
        temperature=0.5, top_p=0.9, top_k=7, min_p=0.2, presence_penalty=1, frequency_penalty=-1,
        repetition_penalty=1.5, logit_bias={"3": 500}, seed=-1, logprobs=2, stop="x",
        stop_token_ids=[9], ignore_eos=True, min_tokens=3, max_tokens=4, return_token_ids=True,
        skip_special_tokens=False, include_stop_str_in_output=True,
    )  # fmt: skip

    line = read(parser, text)

    sampling, stop = line.sampling, line.stop
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0.5, 0.9, 7)
    assert (sampling.min_p, sampling.presence_penalty, sampling.frequency_penalty) == (0.2, 1, -1)
    assert (sampling.repetition_penalty, sampling.logit_bias) == (1.5, ((3, 100.0),))
    assert (sampling.seed, sampling.num_logprobs) == (2**63 - 1, 2)
    assert (stop.strings, stop.token_ids, stop.eos_token_ids) == (("x",), (9,), ())
    assert (stop.min_tokens, stop.max_tokens, stop.include_in_text) == (3, 4, True)
    assert (line.return_token_ids, line.skip_special_tokens) == (True, False)


def test_chat_logprobs_are_counted_by_top_logprobs(parser):
    assert read(parser, chat(logprobs=True, top_logprobs=3)).sampling.num_logprobs == 3
    assert read(parser, chat(logprobs=True)).sampling.num_logprobs == 0
    assert read(parser, chat(top_logprobs=3)).sampling.num_logprobs is None


def test_generation_config_fills_in_what_a_line_leaves_out(model, tokenizer):
    defaults = LineDefaults(temperature=0.6, top_k=20, max_new_tokens=8)
    parser = LineParser(served(model), tokenizer, defaults)

    line = read(parser, completion(top_k=-1))

    assert (line.sampling.temperature, line.sampling.top_k) == (0.6, 0)
    assert line.stop.max_tokens == 8


def test_lines_without_a_seed_have_their_own_of_the_job(parser):
    seeds = {parser.parse(facts(seed=1), number, completion()).sampling.seed for number in (0, 1)}

    assert len(seeds) == 2
    assert parser.parse(facts(seed=1), 0, completion()).sampling.seed in seeds
    assert parser.parse(facts(seed=1), 5, completion(seed=3)).sampling.seed == 3


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "not valid JSON"),
        ("[1]", "not a JSON object"),
        ("{}", "'custom_id' is missing"),
        ('{"custom_id": 3}', "'custom_id' should be a valid string, not 3"),
        (completion().replace("POST", "GET"), "'method'"),
        (completion().replace("/v1/completions", "/v1/embeddings"), "'url'"),
        (completion(temprature=1), "unknown parameter 'temprature'; did you mean 'temperature'?"),
        (completion(xyz=1), "unknown parameter 'xyz'; leave it out"),
        (completion(model="gpt"), "the model 'gpt' is not served here: 'tiny' is"),
        (completion(temperature=-1), "'temperature' should be greater than or equal to 0, not -1"),
        (completion(top_p=0), "'top_p'"),
        (completion(n=0), "'n'"),
        (completion(prompt=["a"] * 600, n=2), "600 prompts x n = 2 are more than 1024 choices"),
        (completion(stop=["x"] * 17), "'stop'"),
        (completion(stop=""), "'stop"),
        (completion(stream=True), "'stream'"),
        (completion(echo=True), "'echo'"),
        (completion(logprobs=21), "'logprobs'"),
        (chat(response_format={"type": "xml"}), "'response_format.type'"),
        (completion(prompt=""), "the prompt is empty"),
        (completion(prompt=[]), "the prompt is empty"),
        (completion(prompt=[[1], []]), "the prompt is empty"),
        (completion(prompt={"a": 1}), "'prompt' must be a text"),
        (completion(prompt=[1, "a"]), "'prompt' must be a text"),
        (completion(prompt=[True]), "'prompt' must be a text"),
        (completion(prompt=[257]), "'prompt' names token 257, the model has 0 to 256"),
        (completion(logit_bias={"300": 1}), "'logit_bias' names token 300"),
        (completion(stop_token_ids=[-1]), "'stop_token_ids' names token -1"),
        (completion(min_tokens=5, max_tokens=4), "'min_tokens' is 5, more than max_tokens = 4"),
        (chat(messages=[]), "'messages'"),
        (
            chat(messages=[{"role": "user", "content": [{"type": "image_url"}]}]),
            "only text is served",
        ),
        (
            completion(prompt=[1] * 90, max_tokens=11),
            "90 tokens and max_tokens = 11 do not fit max_model_len = 100: ask for at most 10",
        ),
        (completion(prompt=[1] * 100), "do not fit max_model_len = 100: shorten the prompt"),
    ],
)
def test_a_bad_line_is_refused_with_the_reason(parser, text, says):
    refused = refusal(parser, text)

    assert says in str(refused)
    assert "\n" not in str(refused)


def test_a_line_longer_than_the_limit_is_refused(parser):
    refused = refusal(parser, " " * (MAX_LINE_BYTES + 1))

    assert "longer than" in str(refused)


def test_a_line_for_another_endpoint_than_the_batch_is_refused(parser):
    refused = refusal(parser, chat(), endpoint="/v1/completions")

    assert refused.param == "url"


def test_without_a_tokenizer_only_token_ids_are_taken(tmp_path):
    directory = write_model(tmp_path, tokenizer=False)
    parser = LineParser(served(directory), Tokenizer(directory))

    assert read(parser, completion(prompt=[1])).prompts == ((1,),)
    assert "no tokenizer.json" in str(refusal(parser, completion()))
    assert "no tokenizer.json" in str(refusal(parser, completion(prompt=[1], stop="x")))


def test_a_model_without_chat_template_refuses_chats(tmp_path):
    directory = write_model(tmp_path, template=None)
    parser = LineParser(served(directory), Tokenizer(directory))

    assert "no chat template" in str(refusal(parser, chat()))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)
NAMES = st.sampled_from(
    ["prompt", "messages", "n", "stop", "logit_bias", "seed", "max_tokens", "logprobs",
     "temperature", "top_k", "stop_token_ids", "response_format", "tools", "chat_template_kwargs"]
)  # fmt: skip


@settings(max_examples=30)
@given(body=st.dictionaries(NAMES, VALUES), make=st.sampled_from([chat, completion]))
def test_any_body_is_read_or_refused(parser, body, make):
    try:
        line = read(parser, make(**body))
    except LineRefused:
        return
    assert line.stop.max_tokens >= 1
    assert all(line.prompts)


@given(text=st.text() | VALUES.map(json.dumps))
def test_any_text_is_read_or_refused(parser, text):
    with pytest.raises(LineRefused):
        read(parser, text)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "9" * 10_000, '"\\ud800"'])
def test_hostile_json_is_refused(parser, text):
    refusal(parser, text)


def test_a_huge_number_is_refused(parser):
    refusal(parser, completion(seed=0).replace('"seed": 0', '"seed": ' + "9" * 4000))


VLLM_DEFAULTS = {
    "n": 1, "frequency_penalty": 0.0, "presence_penalty": 0.0, "repetition_penalty": 1.0,
    "temperature": 0.7, "top_p": 1.0, "top_k": -1, "min_p": 0.0, "seed": None, "stop": [],
    "stop_token_ids": [], "bad_words": [], "ignore_eos": False, "max_tokens": 8, "min_tokens": 0,
    "logprobs": None, "prompt_logprobs": None, "skip_special_tokens": True, "echo": False,
    "spaces_between_special_tokens": True, "truncate_prompt_tokens": None, "logit_bias": None,
    "include_stop_str_in_output": False, "allowed_token_ids": None, "use_beam_search": False,
    "length_penalty": 1.0, "add_special_tokens": True, "priority": 0, "request_id": "x",
    "return_tokens_as_token_ids": None, "return_token_ids": None, "cache_salt": None,
    "kv_transfer_params": None, "vllm_xargs": None, "response_format": {"type": "text"},
    "stream": False, "stream_options": None, "user": "me",
}  # fmt: skip


@pytest.mark.parametrize("write", [chat, completion])
def test_a_line_that_spells_out_vllms_defaults_runs_unchanged(parser, write):
    line = read(parser, write(**VLLM_DEFAULTS))

    assert (line.sampling.temperature, line.stop.max_tokens) == (0.7, 8)


def test_streaming_is_not_for_batch_lines(parser):
    assert refusal(parser, chat(stream=True)).param == "stream"
