"""Write the demo's batch file: `python -m examples.tiny.make_batch`."""

import json
from pathlib import Path
from random import Random
from typing import Any, Final

from examples.tiny.tasks import LISTED_WORDS, SOLVERS, draw_prompt, make_prompt, solve
from examples.tiny.vocabulary import START, encode, render_turn

BATCH_FILE: Final = Path(__file__).parent / "batch.jsonl"
CHAT_URL: Final = "/v1/chat/completions"
COMPLETIONS_URL: Final = "/v1/completions"
_OPTIONS: Final = {"model": "tiny", "max_tokens": 24, "temperature": 0}
_LINES_PER_TASK: Final = 12
_SYSTEM_LINE: Final = "quiet please"


def make_lines(seed: int) -> list[dict[str, Any]]:
    """Make the lines: every task in every form of request, in a mixed order.

    Of a task's twelve lines six are plain chats, one has a system message, two are a third
    turn, two are completions of text and one is a completion of token ids.
    """
    random = Random(seed)
    words = random.sample(LISTED_WORDS, len(LISTED_WORDS))
    requests = []
    for task in SOLVERS:
        prompts = [_held_out_prompt(task, random, words) for _ in range(_LINES_PER_TASK)]
        requests += [_chat([_user(prompt)]) for prompt in prompts[:6]]
        requests += [_chat([{"role": "system", "content": _SYSTEM_LINE}, _user(prompts[6])])]
        requests += [_third_turn(prompt, random) for prompt in prompts[7:9]]
        texts = [START + render_turn(prompt) for prompt in prompts[9:]]
        requests += [_completion(text) for text in texts[:2]]
        requests += [_completion(encode(text)) for text in texts[2:]]
    random.shuffle(requests)
    return [
        {"custom_id": f"line-{number:02}", "method": "POST", "url": url, "body": body}
        for number, (url, body) in enumerate(requests, start=1)
    ]


def _held_out_prompt(task: str, random: Random, words: list[str]) -> str:
    if task == "add":
        return draw_prompt(task, random, held_out=True)
    return make_prompt(task, random, words.pop())


def _third_turn(prompt: str, random: Random) -> tuple[str, dict[str, Any]]:
    messages = []
    for task in random.sample(list(SOLVERS), 2):
        earlier = draw_prompt(task, random, held_out=True)
        messages += [_user(earlier), {"role": "assistant", "content": solve(earlier)}]
    return _chat([*messages, _user(prompt)])


def _user(prompt: str) -> dict[str, str]:
    return {"role": "user", "content": prompt}


def _chat(messages: list[dict[str, str]]) -> tuple[str, dict[str, Any]]:
    return CHAT_URL, {**_OPTIONS, "messages": messages}


def _completion(prompt: str | list[int]) -> tuple[str, dict[str, Any]]:
    return COMPLETIONS_URL, {**_OPTIONS, "prompt": prompt}


def main() -> None:
    """Write the file."""
    lines = (json.dumps(line) + "\n" for line in make_lines(seed=0))
    BATCH_FILE.write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
