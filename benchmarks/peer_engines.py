"""One peer, in a process and an environment of its own: `PYTHON peer_engines.py ENGINE ANSWER < JOB`.

It reads a job as JSON, loads the model, generates a little to warm up, then runs the job so many
times, and writes the seconds of each run as JSON into the file ANSWER: engines write to standard
output as they like. Needs nothing but the engine: where that is installed, this project need not be.
"""

import json
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

Prompts = list[list[int]]
Generate = Callable[[Prompts, int], int]
"""Runs all prompts at once, greedily and past every end of sequence; gives the tokens generated."""

_WARM_UP_TOKENS = 2
_CACHE_GIB = 4


def transformers(job: dict[str, Any]) -> Generate:
    """A static batch of all prompts."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(job["threads"])
    model: Any = AutoModelForCausalLM.from_pretrained(
        job["model"], dtype=torch.bfloat16, attn_implementation="sdpa"
    )

    def generate(prompts: Prompts, num_tokens: int) -> int:
        rows = torch.tensor(prompts)
        output = model.generate(
            rows,
            attention_mask=torch.ones_like(rows),
            max_new_tokens=num_tokens,
            min_new_tokens=num_tokens,
            do_sample=False,
            pad_token_id=0,
        )
        return int(output[:, rows.shape[1] :].numel())

    return generate


def vllm(job: dict[str, Any], *, eager: bool = False) -> Generate:
    """Compiled vLLM on CPU."""
    engine: Any = import_module("vllm")
    llm = engine.LLM(
        job["model"],
        dtype="bfloat16",
        skip_tokenizer_init=True,
        enforce_eager=eager,
        enable_prefix_caching=False,
        max_model_len=len(job["prompts"][0]) + job["output_tokens"],
    )

    def generate(prompts: Prompts, num_tokens: int) -> int:
        chosen = engine.SamplingParams(
            temperature=0, max_tokens=num_tokens, ignore_eos=True, detokenize=False
        )
        asked = [{"prompt_token_ids": prompt} for prompt in prompts]
        results = llm.generate(asked, chosen, use_tqdm=False)
        return sum(len(result.outputs[0].token_ids) for result in results)

    return generate


def vllm_eager(job: dict[str, Any]) -> Generate:
    """The same, not compiled."""
    return vllm(job, eager=True)


def openvino(job: dict[str, Any], *, exported: str = "openvino") -> Generate:
    """OpenVINO GenAI with continuous batching, on a model that was exported beside the checkpoint."""
    import numpy as np

    genai: Any = import_module("openvino_genai")
    tensor: Any = import_module("openvino").Tensor
    scheduler = genai.SchedulerConfig()
    scheduler.cache_size = _CACHE_GIB
    scheduler.enable_prefix_caching = False
    properties = {"INFERENCE_PRECISION_HINT": "bf16", "INFERENCE_NUM_THREADS": job["threads"]}
    pipeline = genai.ContinuousBatchingPipeline(
        f"{job['model']}-{exported}", scheduler, "CPU", properties
    )

    def generate(prompts: Prompts, num_tokens: int) -> int:
        chosen = genai.GenerationConfig(max_new_tokens=num_tokens, ignore_eos=True)
        asked = [tensor(np.array([prompt], np.int64)) for prompt in prompts]
        results = pipeline.generate(asked, [chosen] * len(asked))
        return sum(len(result.m_generation_ids[0]) for result in results)

    return generate


def openvino_int8(job: dict[str, Any]) -> Generate:
    """The same on int8 weights."""
    return openvino(job, exported="openvino-int8")


ENGINES: dict[str, Callable[[dict[str, Any]], Generate]] = {
    "transformers": transformers,
    "vllm": vllm,
    "vllm-eager": vllm_eager,
    "openvino": openvino,
    "openvino-int8": openvino_int8,
}


def main() -> None:
    """Run a job."""
    job = json.load(sys.stdin)
    generate = ENGINES[sys.argv[1]](job)
    generate(job["prompts"], _WARM_UP_TOKENS)
    seconds = []
    for _ in range(job["runs"]):
        started_s = time.perf_counter()
        num_tokens = generate(job["prompts"], job["output_tokens"])
        seconds.append(time.perf_counter() - started_s)
        expected = len(job["prompts"]) * job["output_tokens"]
        if num_tokens != expected:
            sys.exit(f"{num_tokens} tokens were generated, {expected} were asked for")
    Path(sys.argv[2]).write_text(json.dumps(seconds))


if __name__ == "__main__":
    main()
