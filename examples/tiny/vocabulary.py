"""The shipped model's vocabulary: one token per character, and the four tokens that shape a chat.

A conversation reads `<s><|user|>PROMPT<|assistant|>ANSWER</s><|user|>PROMPT<|assistant|>…`.
"""

import re
import string
from collections.abc import Sequence
from typing import Final

UNKNOWN, START, END, USER, ASSISTANT = SPECIAL_TOKENS = (
    "<unk>",
    "<s>",
    "</s>",
    "<|user|>",
    "<|assistant|>",
)
CHARACTERS: Final = "\n " + string.digits + string.ascii_letters + string.punctuation
TOKENS: Final = (*SPECIAL_TOKENS, *CHARACTERS)
TOKEN_IDS: Final = {token: token_id for token_id, token in enumerate(TOKENS)}

_TOKEN_PATTERN: Final = re.compile("|".join(map(re.escape, SPECIAL_TOKENS)) + "|.", re.DOTALL)


def encode(text: str) -> list[int]:
    """Turn text into token ids, special tokens spelled out in it included."""
    return [TOKEN_IDS.get(token, TOKEN_IDS[UNKNOWN]) for token in _TOKEN_PATTERN.findall(text)]


def decode(token_ids: Sequence[int]) -> str:
    """Turn token ids back into exactly the text they came from."""
    return "".join(TOKENS[token_id] for token_id in token_ids)


def render_turn(prompt: str, answer: str = "") -> str:
    """Write one turn of a conversation, up to where the answer begins if it has none."""
    return f"{USER}{prompt}{ASSISTANT}" + (f"{answer}{END}" if answer else "")
