"""Writes the profiles beside it: what bandwidth and arithmetic allow, nothing was measured here.

    python -m examples.profiles.roofline

A stage of tier 1 takes the longer of reading its weights and computing its products, and a fixed
time for starting it; so does attention in tier 2, for each entry.
"""

from pathlib import Path

from common.policy.profile import AttentionTimes, LayerTimes, ModelShape, Profile

FOLDER = Path(__file__).parent

_ROWS = (1, 16, 64, 128, 256, 512, 1024, 2048)

LLAMA_2_70B = ModelShape(
    hidden_size=8192,
    intermediate_size=28672,
    num_heads=64,
    num_kv_heads=8,
    head_size=128,
    vocab_size=32000,
)
LLAMA_3_8B = ModelShape(
    hidden_size=4096,
    intermediate_size=14336,
    num_heads=32,
    num_kv_heads=8,
    head_size=128,
    vocab_size=128256,
)

_T4_BYTES_PER_S, _T4_FLOPS_PER_S, _T4_OVERHEAD_S = 225e9, 30e12, 50e-6
_CPU_BYTES_PER_S, _CPU_FLOPS_PER_S, _CPU_OVERHEAD_S = 40e9, 0.5e12, 100e-6


def t4(model: ModelShape) -> Profile:
    """Give the stage times of an NVIDIA T4 for a model's layers."""
    width, query_size = model.hidden_size, model.num_heads * model.head_size
    qkv_size = query_size + 2 * model.num_kv_heads * model.head_size
    return Profile(
        version=1,
        node="t4",
        source="roofline",
        assumptions={
            "weight_bytes_per_s": _T4_BYTES_PER_S,
            "weight_bytes_per_s_from": "6.86 ms for one post-attention stage of Llama-2-70B "
            "(1.54 GB of weights), the one published measurement",
            "flops_per_s": _T4_FLOPS_PER_S,
            "flops_per_s_from": "25 to 35 of 65 peak TFLOP/s in fp16, assumed sustained",
            "overhead_s": _T4_OVERHEAD_S,
            "overhead_s_from": "a few kernel launches per stage, assumed",
            "bytes_per_weight": 2,
            "left_out": "norms, rotary, sampling, copies between host and GPU",
        },
        dtype="fp16",
        model=model,
        layer=LayerTimes(
            rows=_ROWS,
            pre_s=_stage(width * qkv_size),
            post_s=_stage(query_size * width + 3 * width * model.intermediate_size),
            classify_s=_stage(width * model.vocab_size),
        ),
    )


def cpu() -> Profile:
    """Give the rates of a machine that only attends; they hold for any model."""
    return Profile(
        version=1,
        node="cpu",
        source="roofline",
        assumptions={
            "kv_bytes_per_s_from": "30 to 60 GB/s that server CPUs sustain on 4 memory channels; "
            "31 GB/s is what the one published measurement comes to",
            "flops_per_s_from": "16 cores with 512-bit vectors and fp32 sums, assumed",
            "overhead_s_from": "waking threads and reading page tables, assumed",
        },
        dtype="bf16",
        attention=AttentionTimes(
            kv_bytes_per_s=_CPU_BYTES_PER_S,
            flops_per_s=_CPU_FLOPS_PER_S,
            overhead_s=_CPU_OVERHEAD_S,
        ),
    )


def _stage(num_weights: int) -> tuple[float, ...]:
    read_s = 2 * num_weights / _T4_BYTES_PER_S
    return tuple(
        round(max(read_s, 2 * num_weights * rows / _T4_FLOPS_PER_S) + _T4_OVERHEAD_S, 7)
        for rows in _ROWS
    )


PROFILES = {"t4-llama-2-70b": t4(LLAMA_2_70B), "t4-llama-3-8b": t4(LLAMA_3_8B), "cpu": cpu()}
"""By the name of their file."""


def text_of(profile: Profile) -> str:
    """Give a profile as its file has it."""
    return profile.model_dump_json(indent=2, exclude_none=True) + "\n"


if __name__ == "__main__":
    for name, profile in PROFILES.items():
        (FOLDER / f"{name}.json").write_text(text_of(profile), encoding="utf-8")
