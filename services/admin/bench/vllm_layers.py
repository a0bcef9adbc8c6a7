"""The same attention in vLLM's CPU kernel: `PYTHON vllm_layers.py JOB ANSWER`, in its environment.

Needs nothing but vLLM: where that is installed, this project need not be. The milliseconds per layer
go as JSON into the file ANSWER, since vLLM writes to standard output as it likes.
"""

import json
import sys
import time
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import Any


def main(job: dict[str, Any]) -> float:
    """Measure; gives the milliseconds of the middle pass over one layer."""
    torch: Any = import_module("torch")
    operations: Any = import_module("vllm._custom_ops")
    backend: Any = import_module("vllm.v1.attention.backends.cpu_attn")
    torch.set_num_threads(job["threads"])
    bf16, batch, rows, size = torch.bfloat16, job["batch"], job["num_rows"], job["head_dim"]
    pages_each = -(-job["context"] // job["page_size"])
    isa = backend._get_attn_isa(bf16, job["page_size"], size)
    shape = (batch * pages_each, job["kv_heads"], job["page_size"], size)
    layers = [[torch.ones(shape, dtype=bf16) for _ in range(2)] for _ in range(job["num_layers"])]
    pages = torch.randperm(batch * pages_each, dtype=torch.int32).view(batch, pages_each)
    positions = torch.arange(job["context"] - rows, job["context"])
    slots = pages[:, positions // job["page_size"]].long() * job["page_size"]
    slots = (slots + positions % job["page_size"]).flatten()  # [B n]
    query = torch.randn(batch * rows, job["q_heads"], size).to(bf16)
    key, value = torch.randn(2, batch * rows, job["kv_heads"], size).to(bf16)
    output, lengths = torch.empty_like(query), torch.full((batch,), job["context"]).int()
    starts = torch.arange(0, batch * rows + 1, rows, dtype=torch.int32)
    plan = operations.cpu_attn_get_scheduler_metadata(
        batch, job["q_heads"], job["kv_heads"], size, lengths, bf16, starts, True, -1, isa, True
    )

    def attend(keys: Any, values: Any) -> float:
        started_s = time.perf_counter()
        operations.cpu_attn_reshape_and_cache(key, value, keys, values, slots, isa)
        operations.cpu_attention_with_kv_cache(
            query=query,
            key_cache=keys,
            value_cache=values,
            output=output,
            query_start_loc=starts,
            seq_lens=lengths,
            scale=size**-0.5,
            causal=True,
            alibi_slopes=None,
            sliding_window=-1,
            block_table=pages,
            softcap=0.0,
            scheduler_metadata=plan,
            s_aux=None,
        )
        return time.perf_counter() - started_s

    for layer in layers:
        attend(*layer)
    return 1e3 * median(attend(*layer) for _ in range(job["num_runs"]) for layer in layers)


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(json.dumps(main(json.loads(sys.argv[1]))))
