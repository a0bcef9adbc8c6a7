"""The demo: `python -m examples.tiny.demo`, which is what `make demo` runs.

It runs the shipped batch file through the shipped model on six processes, checks every answer by
program, and compares every token with those of the same model in one process, one request at a
time.
"""

import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from common.ids import JobId
from common.model_spec import read_model_spec
from common.runtime.process import one_line_errors, set_thread_environment
from examples.tiny.check import Verdict, count_per_task, judge
from services.admin.local_cluster import ClusterPlan
from services.admin.report import print_report
from services.admin.run_batch import BatchFiles, run_batch
from services.router.config import RouterSettings
from services.router.lines import LineFinished, LineOutcome
from services.router.service import served_model
from services.router.text.ingest import read_defaults
from services.router.text.line_parser import JobFacts, LineParser
from services.router.text.tokens import Tokenizer

_HERE: Final = Path(__file__).parent
_MODEL: Final = _HERE / "model"
_BATCH: Final = _HERE / "batch.jsonl"
_PLAN: Final = ClusterPlan(
    layer_workers=2,
    attention_workers=2,
    router={"model": _MODEL},
    attention={"kv-memory": "64MiB"},
)
_LEAST_RIGHT: Final = 0.95

TokenIds = list[tuple[int, ...]]
"""Of a line's choices."""


def main() -> int:
    """Run the demo; give 1 if too few answers are right or any token differs."""
    with TemporaryDirectory(prefix="glinthawk-demo-") as folder, one_line_errors():
        files = BatchFiles(
            input=_ask_for_token_ids(_BATCH, Path(folder) / "batch.jsonl"),
            output=Path(folder) / "results.jsonl",
            report=None,
        )
        report = run_batch(files, _PLAN)
        verdicts = judge(files.input, files.output)
        print("comparing with one process, one request at a time")
        differing = _find_differing(files)
    share = _show(verdicts)
    print("\njob report")
    print_report(report, sys.stdout)
    print(f"\n{share:.0%} of the answers are right, at least {_LEAST_RIGHT:.0%} must be")
    lines = f"of {len(verdicts)} lines"
    print(f"the tokens {lines} differ: {differing}" if differing else f"all tokens {lines} equal")
    return int(share < _LEAST_RIGHT or bool(differing))


def _ask_for_token_ids(batch: Path, copy: Path) -> Path:
    """Write a batch file whose results will carry their token ids."""
    with copy.open("w", encoding="utf-8") as file:
        for text in batch.read_text(encoding="utf-8").splitlines():
            line = json.loads(text)
            line["body"]["return_token_ids"] = True
            file.write(json.dumps(line) + "\n")
    return copy


def _find_differing(files: BatchFiles) -> list[str]:
    """Name the lines whose tokens are not those of the reference."""
    expected = _reference(files.input)
    return [
        result["custom_id"]
        for text, token_ids in zip(
            files.output.read_text(encoding="utf-8").splitlines(), expected, strict=True
        )
        if _token_ids(result := json.loads(text)) != token_ids
    ]


def _reference(batch: Path) -> list[TokenIds]:
    """Run the lines in this process, one request at a time."""
    set_thread_environment(1)  # the model is too small for more
    # Torch must find the thread count in the environment, so it is loaded only now.
    from services.admin.inline import InlineCluster

    settings = RouterSettings(model=str(_MODEL), max_num_seqs=1, in_flight=1)
    served = served_model(settings, read_model_spec(_MODEL), _MODEL)
    parser = LineParser(served, Tokenizer(_MODEL), read_defaults(_MODEL))
    job = JobFacts(job_id=JobId("reference"), endpoint=None, seed=0)
    texts = batch.read_text(encoding="utf-8").splitlines()
    lines = [parser.parse(job, number, text) for number, text in enumerate(texts)]
    return [_outcome_ids(outcome) for outcome in InlineCluster(settings).generate(lines)]


def _outcome_ids(outcome: LineOutcome) -> TokenIds:
    assert isinstance(outcome, LineFinished), f"the reference refused a line: {outcome}"
    return [choice.token_ids for choice in outcome.choices]


def _token_ids(result: dict[str, object]) -> TokenIds:
    match result["response"]:
        case {"body": {"choices": [*choices]}}:
            return [tuple(choice["token_ids"]) for choice in choices]
    return []


def _show(verdicts: list[Verdict]) -> float:
    """Print every answer and the count per task; give the share that is right."""
    for verdict in verdicts:
        mark = "right" if verdict.is_right else "WRONG"
        print(f"  {verdict.prompt:24} -> {verdict.answer!s:12} {mark}")
    counts = count_per_task(verdicts)
    print("\nright answers per task")
    for task, (num_right, num_lines) in sorted(counts.items()):
        print(f"  {task:11} {num_right} of {num_lines}")
    return sum(num_right for num_right, _ in counts.values()) / len(verdicts)


if __name__ == "__main__":
    sys.exit(main())
