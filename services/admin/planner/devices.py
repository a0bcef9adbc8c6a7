"""Profiles of machines that are not at hand: what bandwidth and arithmetic allow, and every guess.

A stage of tier 1 takes the longer of reading its weights and computing its products, and a fixed
time for starting it; so does attention, for each entry. One published measurement anchors the share
of its bandwidth that a GPU reaches: 6.86 ms for a post-attention stage of Llama-2-70B on a T4 are
225 of 320 GB/s. Every other GPU is given the same share.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from common.errors import SettingsError
from common.policy.profile import AttentionTimes, LayerTimes, Profile
from services.admin.planner.models import PlannedModel

GIB: Final = 2**30
DTYPE_BYTES: Final = {"fp32": 4, "fp16": 2, "bf16": 2, "int8": 1}
KvDtype = Literal["bf16", "fp16", "fp32", "int8"]

_ROWS = (1, 16, 64, 256, 512, 1024, 2048, 4096)

GPU_BANDWIDTH_SHARE: Final = 225 / 320
GPU_FLOPS_SHARE: Final = 30 / 65
_CPU_BANDWIDTH_SHARE = 0.6
_CPU_FLOPS_SHARE = 0.25
_GPU_MEMORY_SHARE = 0.94


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A machine's data sheet, and what of it is taken to be sustained."""

    name: str
    tier: Literal[1, 2]
    memory_bytes: float
    """That can be used."""
    bytes_per_s: float
    flops_per_s: float
    overhead_s: float
    sources: Mapping[str, float | str]
    """Where the figures come from, to be written into every profile."""


def _gpu(
    name: str, memory_gib: float, peak_bandwidth: float, peak_flops: float, sheet: str
) -> Device:
    return Device(
        name=name,
        tier=1,
        memory_bytes=memory_gib * _GPU_MEMORY_SHARE * GIB,
        bytes_per_s=peak_bandwidth * GPU_BANDWIDTH_SHARE,
        flops_per_s=peak_flops * GPU_FLOPS_SHARE,
        overhead_s=50e-6,
        sources={
            "data_sheet": sheet,
            "peak_bytes_per_s": peak_bandwidth,
            "peak_flops_per_s": peak_flops,
            "bandwidth_share": GPU_BANDWIDTH_SHARE,
            "bandwidth_share_from": "T4: 1.54 GB of weights in 6.86 ms, the one published "
            "measurement, is 225 of 320 GB/s; assumed of every GPU",
            "flops_share": GPU_FLOPS_SHARE,
            "flops_share_from": "30 of 65 TFLOP/s on a T4 (25 to 35 are sustained under its 70 W), "
            "assumed of every GPU",
            "overhead_from": "a few kernel launches per stage, assumed",
            "memory_share": _GPU_MEMORY_SHARE,
            "memory_share_from": "15 of 16 GiB on a T4 in the published cost files",
        },
    )


def _cpu(
    name: str, memory_gib: float, peak_bandwidth: float, peak_flops: float, sheet: str
) -> Device:
    return Device(
        name=name,
        tier=2,
        memory_bytes=memory_gib * GIB,
        bytes_per_s=peak_bandwidth * _CPU_BANDWIDTH_SHARE,
        flops_per_s=peak_flops * _CPU_FLOPS_SHARE,
        overhead_s=100e-6,
        sources={
            "data_sheet": sheet,
            "peak_bytes_per_s": peak_bandwidth,
            "peak_flops_per_s": peak_flops,
            "bandwidth_share": _CPU_BANDWIDTH_SHARE,
            "bandwidth_share_from": "reading pages with computing on them, all cores, assumed",
            "flops_share": _CPU_FLOPS_SHARE,
            "flops_share_from": "prompt positions, fp32 sums, assumed",
            "overhead_from": "waking threads and reading page tables, assumed",
        },
    )


_T = 1e12
_G = 1e9
_CATALOGUE = (
    _gpu("t4", 16, 320 * _G, 65 * _T, "NVIDIA T4: 16 GB GDDR6, 320 GB/s, 65 TFLOP/s fp16"),
    _gpu("l4", 24, 300 * _G, 121 * _T, "NVIDIA L4: 24 GB GDDR6, 300 GB/s, 121 TFLOP/s fp16 dense"),
    _gpu(
        "a10", 24, 600 * _G, 125 * _T, "NVIDIA A10: 24 GB GDDR6, 600 GB/s, 125 TFLOP/s fp16 dense"
    ),
    _gpu(
        "a100", 40, 1555 * _G, 312 * _T, "NVIDIA A100 40GB: HBM2, 1555 GB/s, 312 TFLOP/s fp16 dense"
    ),
    _gpu(
        "h100",
        80,
        3350 * _G,
        989 * _T,
        "NVIDIA H100 SXM: 80 GB HBM3, 3350 GB/s, 989 TFLOP/s fp16 dense",
    ),
    Device(
        name="cpu",
        tier=2,
        memory_bytes=108 * GIB,
        bytes_per_s=40e9,
        flops_per_s=0.5e12,
        overhead_s=100e-6,
        sources={
            "kv_bytes_per_s_from": "30 to 60 GB/s that server CPUs sustain on 4 memory channels; "
            "31 GB/s is what the one published measurement comes to",
            "flops_per_s_from": "16 cores with 512-bit vectors and fp32 sums, assumed",
            "overhead_from": "waking threads and reading page tables, assumed",
            "memory_from": "108 of 128 GiB in the published cost files",
        },
    ),
    _cpu(
        "milan",
        240,
        204.8 * _G,
        64 * 2.45 * 32 * _G,
        "AMD EPYC 7763: 64 cores, 2.45 GHz, AVX2, 8 channels DDR4-3200; 256 GiB",
    ),
    _cpu(
        "genoa",
        360,
        460.8 * _G,
        96 * 2.4 * 32 * _G,
        "AMD EPYC 9654: 96 cores, 2.4 GHz, AVX-512, 12 channels DDR5-4800; 384 GiB",
    ),
    _cpu(
        "sapphire-rapids",
        240,
        307.2 * _G,
        48 * 2.1 * 64 * _G,
        "Intel Xeon Platinum 8468: 48 cores, 2.1 GHz, AVX-512, 8 channels DDR5-4800; 256 GiB",
    ),
)

DEVICES: Final[Mapping[str, Device]] = {device.name: device for device in _CATALOGUE}
"""By the names that hardware lists use."""


def find_device(name: str) -> Device:
    """Give a device by name.

    Raises:
        SettingsError: None has this name.
    """
    if name not in DEVICES:
        raise SettingsError(
            f"device {name} is not known, only {', '.join(DEVICES)} are: give one of them, or a "
            "profile's file"
        )
    return DEVICES[name]


def roofline(device: Device, model: PlannedModel | None, kv_dtype: KvDtype = "fp16") -> Profile:
    """Make a device's profile.

    Args:
        device: Of either tier.
        model: Whose layers it runs; needed for tier 1.
        kv_dtype: Of the keys and values it attends to. Weights are of 16 bits.

    Raises:
        SettingsError: A device of tier 1 without a model.
    """
    if device.tier == 1 and model is None:
        raise SettingsError(f"a profile of {device.name} is about a model's layers: give --model")
    return Profile(
        version=1,
        node=device.name,
        source="roofline",
        assumptions={
            **device.sources,
            "bytes_per_s": device.bytes_per_s,
            "flops_per_s": device.flops_per_s,
            "overhead_s": device.overhead_s,
            "bytes_per_weight": 2,
            "left_out": "norms, rotary, sampling, copies between host and GPU",
        },
        dtype="fp16" if device.tier == 1 else kv_dtype,
        memory_bytes=device.memory_bytes,
        model=model.shape if model and device.tier == 1 else None,
        layer=_layer_times(device, model) if model and device.tier == 1 else None,
        attention=AttentionTimes(
            kv_bytes_per_s=device.bytes_per_s,
            flops_per_s=device.flops_per_s,
            overhead_s=device.overhead_s,
        ),
    )


def _layer_times(device: Device, model: PlannedModel) -> LayerTimes:
    width, query_size = model.shape.hidden_size, model.query_size
    feed_forward = 3 * width * model.shape.intermediate_size
    # From here on computing takes longer than reading the weights.
    knee = round(device.flops_per_s / device.bytes_per_s)
    rows = tuple(sorted({*_ROWS, knee}))

    def stage(num_weights: int) -> tuple[float, ...]:
        read_s = 2 * num_weights / device.bytes_per_s
        row_s = 2 * num_weights / device.flops_per_s
        return tuple(round(max(read_s, row_s * each) + device.overhead_s, 9) for each in rows)

    return LayerTimes(
        rows=rows,
        pre_s=stage(width * (query_size + 2 * model.kv_size)),
        post_s=stage(query_size * width + feed_forward),
        classify_s=stage(width * model.shape.vocab_size),
    )
