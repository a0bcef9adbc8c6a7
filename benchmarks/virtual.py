"""Clusters whose workers compute nothing, in virtual time: the same figures on any machine.

All states are the real ones, and every message is encoded and decoded; what an engine would take
passes as virtual time, from a profile. The model is narrow and shallow, so that few bytes are
copied: its profile is scaled so that each of its layers takes as long as many of the real model.
A message takes 0.1 ms whatever its size, per layer of the real model.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from common.ids import JobId, WorkerId
from common.messages import AttentionRequest, AttentionResult, ForwardMicrobatch, Message
from common.messages.tensor import DTYPE_BYTES
from common.model_spec import ModelSpec, read_model_spec
from common.policy.profile import AttentionTimes, LayerTimes, Profile, read_profile
from common.runtime.emulation import EmulatedTime
from services.admin.inline import Engine, InlineCluster, InlineEngines
from services.admin.inline_bus import MESSAGE_S
from services.attention_worker.config import AttentionWorkerSettings
from services.attention_worker.emulated_engine import EmulatedCompute
from services.layer_worker.emulated_engine import EmulatedLayerEngine
from services.router.config import RouterSettings
from services.router.lines import GREEDY, ParsedLine, StopRules

NUM_LAYERS: Final = 2
_REAL_LAYERS: Final = 32
"""Of Llama-3-8B."""
_KV_DTYPE: Final = "bf16"
_PROFILES = Path("examples/profiles")
_CONFIG: Final = {
    "model_type": "llama",
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": NUM_LAYERS,
    "num_attention_heads": 1,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "vocab_size": 128,
    "max_position_embeddings": 1 << 17,
    "eos_token_id": 2,
    "torch_dtype": "bfloat16",
}
TOKENS: Final = tuple(range(128))
"""Every token that a worker may choose."""


@contextmanager
def t4_cluster(
    *, pool_tokens: int, speeds: Sequence[float] = (1.0,), **settings: Any
) -> Iterator[InlineCluster]:
    """Open a cluster of a T4 with Llama-3-8B and CPU machines, as `examples/profiles` has them.

    Args:
        pool_tokens: That each attention worker can hold.
        speeds: One per attention worker: how many times as fast as the profile it is.
        settings: Of the router.
    """
    with TemporaryDirectory() as name:
        directory = Path(name)
        (directory / "config.json").write_text(json.dumps(_CONFIG))
        router = RouterSettings(
            model=name, compute="emulated", attention_workers=len(speeds), **settings
        )
        spec = read_model_spec(directory)
        engines = _engines(spec, pool_tokens, speeds)
        yield InlineCluster(router, engines=engines)


def _engines(spec: ModelSpec, pool_tokens: int, speeds: Sequence[float]) -> InlineEngines:
    layer = _narrow(read_profile(_PROFILES / "t4-llama-3-8b.json"), spec)
    attention = _attention_like(read_profile(_PROFILES / "t4-llama-3-8b.json"), spec)
    bytes_per_token = 2 * spec.num_kv_heads * spec.head_size * DTYPE_BYTES[_KV_DTYPE] * NUM_LAYERS
    settings = AttentionWorkerSettings(kv_memory=pool_tokens * bytes_per_token)
    next_speed = iter(speeds)

    def make_attention() -> Engine:
        time = _no_sleep(1 / next(next_speed, 1.0))
        return EmulatedCompute(settings, attention, time)

    return InlineEngines(
        make_layer=lambda: EmulatedLayerEngine(spec, layer, _no_sleep(1.0)).compute,
        layer_path="emulated",
        make_attention=make_attention,
        attention_path="emulated",
        seconds=lambda result: getattr(result, "engine_s", 0.0),
    )


def _no_sleep(scale: float) -> EmulatedTime:
    return EmulatedTime(scale, clock=lambda: 0.0, sleep=lambda _: None)


def _narrow(profile: Profile, spec: ModelSpec) -> Profile:
    """Let a layer of the narrow model take as long as several of the profile's."""
    assert profile.layer is not None
    assert profile.model is not None
    times = profile.layer
    slower = _REAL_LAYERS / NUM_LAYERS
    layer = LayerTimes(
        rows=times.rows,
        pre_s=tuple(seconds * slower for seconds in times.pre_s),
        post_s=tuple(seconds * slower for seconds in times.post_s),
        classify_s=times.classify_s,
    )
    shape = {name: getattr(spec, name) for name in type(profile.model).model_fields}
    model = profile.model.model_copy(update=shape)
    return profile.model_copy(update={"layer": layer, "model": model})


def _attention_like(profile: Profile, spec: ModelSpec) -> Profile:
    """Let a token of the narrow model cost as much as one of the profile's model on a CPU."""
    real, cpu = profile.model, read_profile(_PROFILES / "cpu.json")
    assert real is not None
    assert cpu.attention is not None
    slower = _REAL_LAYERS / NUM_LAYERS
    kv_share = spec.num_kv_heads * spec.head_size / (real.num_kv_heads * real.head_size)
    query_share = spec.num_heads * spec.head_size / (real.num_heads * real.head_size)
    attention = AttentionTimes(
        kv_bytes_per_s=cpu.attention.kv_bytes_per_s * kv_share / slower,
        flops_per_s=cpu.attention.flops_per_s * query_share / slower,
        overhead_s=cpu.attention.overhead_s * slower,
    )
    return cpu.model_copy(update={"attention": attention})


def line(
    number: int, prompt: Sequence[int], num_output: int, max_tokens: int | None = None
) -> ParsedLine:
    """A line that ends after exactly so many tokens; with a limit, the limit is all that is told.

    Only an emulated worker goes on when every token is forbidden until the end.
    """
    stop = StopRules(
        max_tokens=num_output if max_tokens is None else max_tokens,
        min_tokens=0 if max_tokens is None else num_output,
        eos_token_ids=(),
        token_ids=() if max_tokens is None else TOKENS,
        strings=(),
        include_in_text=False,
    )
    return ParsedLine(
        job_id=JobId("bench"),
        number=number,
        custom_id=str(number),
        kind="completion",
        model="emulated",
        prompts=(tuple(prompt),),
        n=1,
        sampling=GREEDY,
        stop=stop,
        skip_special_tokens=True,
        return_token_ids=False,
    )


def watch(cluster: InlineCluster, look: Callable[[ForwardMicrobatch, float], None]) -> None:
    """Look at each microbatch when the router sends it, and at the time.

    An activation takes as long as those of all layers that one layer stands for.
    """

    def fate(sender: WorkerId, receiver: WorkerId, message: Message) -> tuple[float]:
        if isinstance(message, ForwardMicrobatch):
            look(message, cluster.bus.clock.now())
        many = isinstance(message, AttentionRequest | AttentionResult)
        return (MESSAGE_S * (_REAL_LAYERS / NUM_LAYERS if many else 1),)

    cluster.bus.fate = fate
