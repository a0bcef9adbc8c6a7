"""Train the shipped model: `python -m examples.tiny.train`, about half an hour on two cores.

A training row is one conversation of as many turns as fit, so that questions are met at every
position and beside other questions. The loss is on answers alone.
"""

import argparse
import math
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from random import Random
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional
from torch.optim.lr_scheduler import LambdaLR

from examples.tiny.export import write_model
from examples.tiny.llama import Llama, LlamaShape
from examples.tiny.tasks import SOLVERS, draw_prompt, make_word, solve
from examples.tiny.vocabulary import END, START, TOKENS, encode, render_turn

NO_TARGET: Final = -100
"""The target of a position that is not part of an answer."""

MODEL_FOLDER: Final = Path(__file__).parent / "model"
_TASK_WEIGHTS: Final = {"add": 3, "count": 2, "reverse": 2, "sort": 3, "upper": 1}
_BATCH_ROWS: Final = 64
_ROW_TOKENS: Final = 96
_LAYER_LEARNING_RATE: Final = 5e-3
_EMBEDDING_LEARNING_RATE: Final = 2e-3
_WEIGHT_DECAY: Final = 0.05
_WARM_UP_STEPS: Final = 50
_EVALUATION_STEPS: Final = 200
_EVALUATION_PROMPTS: Final = 200


class Conversation:
    """Token ids, and beside each the token to predict there if it belongs to an answer."""

    def __init__(self) -> None:
        self.token_ids = encode(START)
        self.targets: list[int] = []

    def add_turn(self, prompt: str) -> None:
        """Append a prompt and its right answer."""
        question = encode(render_turn(prompt))
        answer = encode(solve(prompt.rpartition("\n")[2]) + END)
        self.token_ids += question + answer
        self.targets += [NO_TARGET] * len(question) + answer

    def row(self, num_tokens: int) -> tuple[list[int], list[int]]:
        """Cut or fill up to `num_tokens` inputs and as many targets."""
        missing = max(0, num_tokens - len(self.targets))
        inputs = self.token_ids[:-1] + encode(END) * missing
        targets = self.targets + [NO_TARGET] * missing
        return inputs[:num_tokens], targets[:num_tokens]


def make_training_row(random: Random) -> tuple[list[int], list[int]]:
    """Make one conversation of prompts that are not held out."""
    conversation = Conversation()
    if random.random() < 0.1:
        system = " ".join(make_word(random) for _ in range(random.randint(1, 5)))
        conversation.add_turn(f"{system}\n{_training_prompt(random)}")
    while len(conversation.targets) < _ROW_TOKENS:
        conversation.add_turn(_training_prompt(random))
    return conversation.row(_ROW_TOKENS)


def make_held_out_row(task: str, random: Random) -> tuple[list[int], list[int]]:
    """Make a conversation of a single held-out prompt."""
    conversation = Conversation()
    conversation.add_turn(draw_prompt(task, random, held_out=True))
    return conversation.row(_ROW_TOKENS // 2)


def measure_accuracy(model: Llama) -> dict[str, float]:
    """Measure, per task, the share of held-out prompts that greedy decoding answers exactly.

    One pass over the right answers tells: greedy decoding writes an answer if and only if every
    token of it is the likeliest after the ones before.
    """
    # bfloat16 is what the checkpoint holds and what a cluster computes in.
    served = Llama(model.shape).bfloat16()
    served.load_state_dict(model.state_dict())
    random = Random(1)
    accuracy = {}
    for task in SOLVERS:
        rows = (make_held_out_row(task, random) for _ in range(_EVALUATION_PROMPTS))
        token_ids, targets = _stack(rows)  # [B, T]
        with torch.inference_mode():
            guesses = served.logits(served(token_ids)).argmax(dim=-1)  # [B, T]
        right = ((guesses == targets) | (targets == NO_TARGET)).all(dim=-1)  # [B]
        accuracy[task] = right.float().mean().item()
    return accuracy


def make_optimizers(model: Llama) -> list[torch.optim.Optimizer]:
    """Give the layers' matrices to Muon and the embedding and the norms to AdamW.

    Muon needs about half the steps that AdamW needs alone.
    """
    matrices = [weight for weight in model.layers.parameters() if weight.ndim == 2]
    others = [model.embed_tokens.weight]
    others += [weight for weight in model.parameters() if weight.ndim == 1]
    return [
        torch.optim.Muon(
            matrices,
            lr=_LAYER_LEARNING_RATE,
            weight_decay=_WEIGHT_DECAY,
            adjust_lr_fn="match_rms_adamw",
        ),
        torch.optim.AdamW(
            others, lr=_EMBEDDING_LEARNING_RATE, betas=(0.9, 0.98), weight_decay=_WEIGHT_DECAY
        ),
    ]


def train(num_steps: int, seed: int, folder: Path) -> None:
    """Train from scratch, and write the model whenever an evaluation is the best so far."""
    torch.manual_seed(seed)
    random = Random(seed)
    model = Llama(LlamaShape(vocabulary_size=len(TOKENS)))
    optimizers = make_optimizers(model)
    schedules = [LambdaLR(optimizer, partial(_rate_factor, num_steps)) for optimizer in optimizers]
    best = 0.0
    started = time.monotonic()
    for step in range(1, num_steps + 1):
        loss = _compute_gradients(model, random)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            schedule.step()
        if step % _EVALUATION_STEPS and step < num_steps:
            continue
        accuracy = measure_accuracy(model)
        mean = sum(accuracy.values()) / len(accuracy)
        if mean >= best:
            best = mean
            write_model(model, folder)
        figures = " ".join(f"{task} {share:.1%}" for task, share in accuracy.items())
        elapsed_s = time.monotonic() - started
        print(f"{elapsed_s:6.0f} s  step {step}  loss {loss:.4f}  mean {mean:.1%}  {figures}")


def _compute_gradients(model: Llama, random: Random) -> float:
    token_ids, targets = _stack(make_training_row(random) for _ in range(_BATCH_ROWS))  # [B, T]
    answered = targets != NO_TARGET
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        logits = model.logits(model(token_ids)[answered])  # [N, V]
    loss = functional.cross_entropy(logits.float(), targets[answered])
    torch.autograd.backward(loss)
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    return loss.item()


def _rate_factor(num_steps: int, step: int) -> float:
    warm_up = min(1.0, (step + 1) / _WARM_UP_STEPS)
    return warm_up * (0.51 + 0.49 * math.cos(math.pi * step / num_steps))


def _training_prompt(random: Random) -> str:
    (task,) = random.choices(list(_TASK_WEIGHTS), list(_TASK_WEIGHTS.values()))
    return draw_prompt(task, random, held_out=False)


def _stack(
    rows: Iterator[tuple[Sequence[int], Sequence[int]]],
) -> tuple[Tensor, Tensor]:
    token_ids, targets = zip(*rows, strict=True)
    return torch.tensor(token_ids), torch.tensor(targets)


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=MODEL_FOLDER)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    train(arguments.steps, arguments.seed, arguments.output)


if __name__ == "__main__":
    main()
