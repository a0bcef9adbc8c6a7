"""How long requests are: from a batch file, from a histogram, or all alike."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from common.errors import LineRefused, SettingsError
from common.ids import JobId
from services.router.text.line_parser import read_object

_CHARACTERS_PER_TOKEN = 4
_DEFAULT_OUTPUT_TOKENS = 16


class Lengths(NamedTuple):
    """Tokens of one request."""

    prompt: int
    output: int
    max_tokens: int | None = None
    """The most that the answer may have; None is what it will have."""

    @property
    def limit(self) -> int:
        """Tokens of the answer at most."""
        return self.max_tokens or self.output


def read_lengths(path: Path, model: str) -> list[Lengths]:
    """Read how long the requests of a file are, one per line.

    A line is a request in OpenAI's batch format, whose answer counts as long as `max_tokens`, or a
    bar of a histogram: `{"prompt_tokens": 100, "output_tokens": 20, "count": 7}`, with `max_tokens` if
    answers may be longer than they are. Text is counted by the model's tokenizer if `model` is a
    checkpoint's directory, else as a token per four characters.

    Raises:
        SettingsError: The file is empty or a line cannot be used; names it.
    """
    try:
        texts = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} cannot be read: {error}") from None
    lengths: list[Lengths] = []
    count = _counter(model)
    for number, text in enumerate(texts, start=1):
        if text.strip():
            try:
                lengths += _bar(read_object(text)) or count(number, text)
            except (LineRefused, ValueError) as error:
                raise SettingsError(f"{path}, line {number}: {error}") from None
    if not lengths:
        raise SettingsError(f"{path} is empty: it needs at least one request")
    return lengths


def _bar(line: Mapping[str, Any]) -> list[Lengths]:
    """Give the requests of a histogram's bar; none if it is something else."""
    if "prompt_tokens" not in line:
        return []
    output = line.get("output_tokens")
    numbers = [line["prompt_tokens"], output, line.get("count", 1), line.get("max_tokens", output)]
    if not all(isinstance(each, int) and each > 0 for each in numbers):
        message = "a histogram's numbers must be whole and above zero"
        raise ValueError(message)
    prompt, output, count, max_tokens = numbers
    if max_tokens < output:
        message = f"max_tokens {max_tokens} is less than output_tokens {output}"
        raise ValueError(message)
    return [Lengths(prompt, output, max_tokens)] * count


def _counter(model: str) -> Callable[[int, str], list[Lengths]]:
    directory = Path(model).expanduser()
    return _parsing(directory) if (directory / "config.json").is_file() else _guessing


def _parsing(directory: Path) -> Callable[[int, str], list[Lengths]]:
    """Read lines as the router will."""
    from common.model_spec import read_model_spec
    from services.router.text.ingest import read_defaults
    from services.router.text.line_parser import JobFacts, LineParser, ServedModel
    from services.router.text.tokens import Tokenizer

    spec = read_model_spec(directory)
    served = ServedModel(
        names=(),
        directory=str(directory),
        max_model_len=spec.max_model_len,
        vocab_size=spec.vocab_size,
        eos_token_ids=spec.eos_token_ids,
    )
    parser = LineParser(served, Tokenizer(directory), read_defaults(directory))
    job = JobFacts(job_id=JobId("lengths"), endpoint=None, seed=0)

    def count(number: int, text: str) -> list[Lengths]:
        line = parser.parse(job, number, text)
        output = line.stop.max_tokens
        return [Lengths(len(prompt), output) for prompt in line.prompts for _ in range(line.n)]

    return count


def _guessing(number: int, text: str) -> list[Lengths]:
    """Guess the tokens of text, where there is no tokenizer."""
    body = read_object(text).get("body")
    if not isinstance(body, dict):
        message = "it is neither a request in batch format nor a histogram's bar"
        raise ValueError(message)
    prompt = body.get("prompt", body.get("messages", ""))
    output = body.get("max_completion_tokens") or body.get("max_tokens") or _DEFAULT_OUTPUT_TOKENS
    num_prompt = max(1, _tokens(prompt))
    return [Lengths(num_prompt, int(output))] * int(body.get("n", 1))


def _tokens(prompt: Any) -> int:
    match prompt:
        case str():
            return -(-len(prompt) // _CHARACTERS_PER_TOKEN)
        case int():
            return 1
        case list():
            return sum(map(_tokens, prompt))
        case dict():
            return _tokens(prompt.get("content", ""))
        case _:
            return 0
