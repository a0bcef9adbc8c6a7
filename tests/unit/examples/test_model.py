"""The shipped model as transformers, which knows nothing of this project, runs it."""

import json
from typing import Any

import pytest
import torch

from examples.tiny.check import prompt_of
from examples.tiny.make_batch import BATCH_FILE
from examples.tiny.tasks import check
from examples.tiny.train import MODEL_FOLDER


@pytest.mark.slow
@pytest.mark.timeout(60)
@pytest.mark.filterwarnings("ignore")
def test_transformers_gets_the_demo_right() -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(MODEL_FOLDER)
    model = transformers.AutoModelForCausalLM.from_pretrained(MODEL_FOLDER, dtype="bfloat16")

    def answer(body: dict[str, Any]) -> str:
        if "messages" in body:
            prompt = tokenizer.apply_chat_template(
                body["messages"], add_generation_prompt=True, tokenize=False
            )
        else:
            prompt = body["prompt"]
        token_ids = tokenizer.encode(prompt) if isinstance(prompt, str) else prompt
        inputs = torch.tensor([token_ids])
        output = model.generate(inputs, max_new_tokens=body["max_tokens"], do_sample=False)
        return str(tokenizer.decode(output[0, len(token_ids) :], skip_special_tokens=True))

    bodies = [json.loads(line)["body"] for line in BATCH_FILE.read_text().splitlines()]
    wrong = [prompt_of(body) for body in bodies if not check(prompt_of(body), answer(body))]

    assert len(wrong) <= len(bodies) * 0.05
