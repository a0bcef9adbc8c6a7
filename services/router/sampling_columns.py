"""The columns that tell the last range how to sample a microbatch's entries."""

from collections.abc import Sequence
from operator import attrgetter

import numpy as np
from numpy.typing import NDArray

from common.messages import Grammars, Sampling, Tensor
from services.router.lines import SamplingParameters
from services.router.requests import Request
from services.router.uniforms import uniforms

_FLOATS = attrgetter(
    "temperature",
    "top_p",
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
)
"""The columns of `Sampling.floats`, in their order."""
_NO_TOKENS = np.empty(0, np.int32)
_NO_VALUES = np.empty(0, np.float32)


def sampling_columns(sampled: Sequence[Request]) -> Sampling:
    """Collect how the sampled entries choose their tokens.

    Only entries with penalties bring their history along, only those with biases their biases.
    """
    histories = [_history(request) for request in sampled]
    biases = [_biases(request) for request in sampled]
    positions = [request.num_tokens for request in sampled]
    return Sampling(
        floats=Tensor.of(_floats(sampled)),
        ints=Tensor.of(_ints(sampled, histories, biases)),
        uniforms=Tensor.of(uniforms([request.key for request in sampled], positions)),
        history=Tensor.of(np.concatenate([_NO_TOKENS, *histories])),
        bias_tokens=Tensor.of(np.concatenate([_NO_TOKENS, *(tokens for tokens, _ in biases)])),
        bias_values=Tensor.of(np.concatenate([_NO_VALUES, *(values for _, values in biases)])),
        grammars=_grammars(sampled),
    )


def _grammars(sampled: Sequence[Request]) -> Grammars | None:
    """Collect grammars, each once, and what the entries that have one have generated."""
    bound = [
        (place, request, request.line.parsed.grammar)
        for place, request in enumerate(sampled)
        if request.line.parsed.grammar is not None
    ]
    if not bound:
        return None
    numbers: dict[str, int] = {}
    entries = [
        (place, request.request_id, numbers.setdefault(text, len(numbers)), request.num_output)
        for place, request, text in bound
    ]
    texts = [text.encode() for text in numbers]
    outputs = [request.tokens[request.num_prompt : request.num_tokens] for _, request, _ in bound]
    return Grammars(
        entries=Tensor.of(np.array(entries, np.int32)),
        tokens=Tensor.of(np.concatenate(outputs)),
        texts=Tensor.of(np.frombuffer(b"".join(texts), np.int8)),
        text_sizes=Tensor.of(np.array([len(text) for text in texts], np.int32)),
    )


def _floats(sampled: Sequence[Request]) -> NDArray[np.float32]:
    rows = [_FLOATS(request.sampling) for request in sampled]
    return np.array(rows, np.float32).reshape(-1, 6)


def _ints(
    sampled: Sequence[Request],
    histories: Sequence[NDArray[np.int32]],
    biases: Sequence[tuple[NDArray[np.int32], NDArray[np.float32]]],
) -> NDArray[np.int32]:
    rows = [
        (
            request.sampling.top_k,
            0 if request.sampling.num_logprobs is None else 1 + request.sampling.num_logprobs,
            request.num_prompt if len(history) else 0,
            request.num_output if len(history) else 0,
            len(tokens),
        )
        for request, history, (tokens, _) in zip(sampled, histories, biases, strict=True)
    ]
    return np.array(rows, np.int32).reshape(-1, 5)


def _history(request: Request) -> NDArray[np.int32]:
    return request.tokens[: request.num_tokens] if _has_penalties(request.sampling) else _NO_TOKENS


def _has_penalties(parameters: SamplingParameters) -> bool:
    return (
        parameters.presence_penalty != 0
        or parameters.frequency_penalty != 0
        or parameters.repetition_penalty != 1
    )


def _biases(request: Request) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    bias, stop = request.sampling.logit_bias, request.stop
    forbidden: tuple[int, ...] = ()
    if request.num_output < stop.min_tokens:
        forbidden = (*stop.eos_token_ids, *stop.token_ids)
    if not bias and not forbidden:
        return _NO_TOKENS, _NO_VALUES
    tokens = np.array([*(token for token, _ in bias), *forbidden], np.int32)
    values = np.array([*(value for _, value in bias), *[-np.inf] * len(forbidden)], np.float32)
    return tokens, values
