"""Answers that keep to JSON schemas: are all of them valid, and what do they cost.

    python -m benchmarks.structured --rows 1000

A job of rows with twenty schemas runs, then the same prompts as free text, every row as long as its
structured twin. The weights are random, so the model has no part in an answer being valid.
"""

import json
import site
import sysconfig
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import jsonschema_rs
import typer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from benchmarks.schemas import SCHEMAS
from services.admin.bench.workloads import CACHE, Workload, find_model, make_prompts
from services.admin.local_cluster import ClusterPlan, LocalCluster
from services.admin.run_batch import BatchFiles, run_batch
from services.router.job_account import JobReport

_MODEL: Final = "random:stories-110m"
_VOCAB_SIZE: Final = 32000
_TEXT_BYTES: Final = 12 * 2**20
_MAX_TOKENS: Final = 400

Rows = list[dict[str, Any]]


def main(rows: int = 1000, prompt_tokens: int = 16) -> None:
    """Run both jobs on one cluster, and print what came of them."""
    workload = Workload(
        model=_MODEL, num_requests=rows, prompt_tokens=prompt_tokens, output_tokens=1
    )
    prompts = make_prompts(workload, _VOCAB_SIZE, seed=0)
    bound = [
        {"prompt": prompt, "max_tokens": _MAX_TOKENS, "structured_outputs": {"json": schema}}
        for number, prompt in enumerate(prompts)
        for schema in [SCHEMAS[number % len(SCHEMAS)]]
    ]
    plan = ClusterPlan(
        layer_workers=1, attention_workers=1, router={"model": _write_model()},
        attention={"kv-memory": "2GiB"},
    )  # fmt: skip
    with TemporaryDirectory() as name, LocalCluster(plan) as cluster:
        cluster.wait_until_ready().close()
        _run(Path(name), cluster.url, [{**body, "max_tokens": 2} for body in bound[:64]])
        structured, answers = _run(Path(name), cluster.url, bound)
        lengths = [answer["usage"]["completion_tokens"] for answer in answers]
        free = [
            {"prompt": prompt, "max_tokens": length, "ignore_eos": True}
            for prompt, length in zip(prompts, lengths, strict=True)
        ]
        plain, _ = _run(Path(name), cluster.url, free)
    texts = [answer["choices"][0]["text"] for answer in answers]
    num_valid = sum(_is_valid(text, body) for text, body in zip(texts, bound, strict=True))
    print(
        json.dumps(
            {
                "rows": rows,
                "valid": num_valid,
                "tokens_per_row": round(sum(lengths) / rows, 1),
                "structured_tokens_per_s": round(structured.output_tokens_per_s),
                "free_tokens_per_s": round(plain.output_tokens_per_s),
                "structured_over_free": round(
                    structured.output_tokens_per_s / plain.output_tokens_per_s, 3
                ),
            }
        )
    )


def _run(folder: Path, url: str, bodies: Rows) -> tuple[JobReport, Rows]:
    lines = [
        {"custom_id": str(number), "method": "POST", "url": "/v1/completions", "body": body}
        for number, body in enumerate(bodies)
    ]
    path = folder / "in.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    files = BatchFiles(input=path, output=folder / "out.jsonl", report=None)
    report = run_batch(files, url)
    results = [json.loads(line) for line in files.output.read_text().splitlines()]
    return report, [result["response"]["body"] for result in results]


def _is_valid(text: str, body: dict[str, Any]) -> bool:
    try:
        answer = json.loads(text)
    except ValueError:
        return False
    return jsonschema_rs.is_valid(body["structured_outputs"]["json"], answer, validate_formats=True)


def _write_model() -> Path:
    """Give the random checkpoint a tokenizer of its own, learned from Python's standard library."""
    directory = CACHE / "stories-110m-text"
    if not (directory / "tokenizer.json").exists():
        directory.mkdir(parents=True, exist_ok=True)
        for file in Path(find_model(_MODEL)).iterdir():
            (directory / file.name).symlink_to(file)
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=_VOCAB_SIZE,
            special_tokens=["<unk>", "<s>", "</s>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        tokenizer.train_from_iterator(_some_text(), trainer)
        tokenizer.save(str(directory / "tokenizer.json"))
    return directory


def _some_text() -> list[str]:
    texts, size = [], 0
    for path in sorted(Path(sysconfig.get_path("stdlib")).rglob("*.py")):
        if size > _TEXT_BYTES or site.getsitepackages()[0] in str(path):
            continue
        texts.append(path.read_text(errors="replace"))
        size += len(texts[-1])
    return texts


if __name__ == "__main__":
    typer.run(main)
