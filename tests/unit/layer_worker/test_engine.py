"""The engine: a microbatch's way through ranges and shards, and what it refuses."""

from collections.abc import Generator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from common.errors import WireError
from common.ids import MicrobatchId
from common.messages import LayerRole, Tensor
from common.messages.entries import FLAGS, LOCAL, positions, sampled_rows
from common.model_spec import ModelSpec, read_model_spec
from services.layer_worker.device import CpuDevice
from services.layer_worker.engine import LayerEngine
from services.layer_worker.torch_tensor import from_torch, to_torch
from services.layer_worker.work import (
    Advance,
    Attended,
    Begin,
    End,
    LayerBegun,
    LoadRange,
    RangeEnded,
    RangeLoaded,
    TokensChosen,
)
from tests.support.checkpoints import cached_checkpoint
from tests.support.device import LateDevice
from tests.support.step import entry, int32, layer_role, sampling_of

ID = MicrobatchId(1)
ENTRIES = [entry(1, 0, 5), entry(2, 3, 4, sample=False), entry(3, 9)]
NUM_ROWS = 10


@pytest.fixture(scope="module")
def spec() -> ModelSpec:
    return read_model_spec(cached_checkpoint("llama3")[0])


@pytest.fixture(scope="module")
def load(spec):
    """Make an engine of a range; a range is loaded once."""
    engines: dict[LayerRole, LayerEngine] = {}

    def load_range(start: int, stop: int) -> LayerEngine:
        role = layer_role(start, stop, spec.num_layers)
        if role not in engines:
            directory, _ = cached_checkpoint("llama3")
            engines[role] = LayerEngine(directory, spec, CpuDevice())
            assert engines[role].compute(LoadRange(role=role)) == RangeLoaded(role=role)
        return engines[role]

    return load_range


def mix(spec: ModelSpec, begun: LayerBegun) -> torch.Tensor:
    """Stand in for attention: something that depends on q, k and v of a row, and on nothing else."""
    queries, keys, values = to_torch(begun.qkv).split(
        (spec.query_size, spec.kv_size, spec.kv_size), dim=1
    )
    return queries + (keys + values).repeat(1, spec.query_size // spec.kv_size)


def in_shards(rows: torch.Tensor, *starts: int) -> tuple[Attended, ...]:
    return tuple(
        Attended(output=from_torch(part), log_sums=None) for part in rows.tensor_split(starts)
    )


def travel(spec: ModelSpec, role: LayerRole, arrived: Tensor) -> Generator[Any, Any, None]:
    """Give a microbatch's work in a range, its rows cut into other shards at each layer."""
    entries = int32(ENTRIES)
    begun = yield Begin(microbatch_id=ID, layer=role.start, entries=entries, arrived=arrived)
    for layer in range(role.start, role.stop - 1):
        shards = in_shards(mix(spec, begun), 1 + layer, 7)
        begun = yield Advance(microbatch_id=ID, layer=layer, carry=begun.carry, attention=shards)
    yield End(
        microbatch_id=ID,
        layer=role.stop - 1,
        carry=begun.carry,
        attention=in_shards(mix(spec, begun), 5),
        entries=entries,
        sampling=sampling_of(2) if role.last else None,
    )


def through(spec: ModelSpec, engine: LayerEngine, role: LayerRole, arrived: Tensor) -> Any:
    """Take a microbatch through a range."""
    way = travel(spec, role, arrived)
    result = engine.compute(next(way))
    while isinstance(result, LayerBegun):
        result = engine.compute(way.send(result))
    return result


def expected_tokens(spec: ModelSpec, engine: LayerEngine, token_ids: Tensor) -> list[int]:
    """Run all rows through all layers of the stack, without the engine."""
    stack = engine._loaded
    entries = int32(ENTRIES).numpy()
    places = torch.from_numpy(positions(entries))
    hidden = stack.embed(to_torch(token_ids))
    for layer in range(spec.num_layers):
        qkv = stack.pre_attention(layer, hidden, places)
        begun = LayerBegun(
            microbatch_id=ID, carry=None, qkv=from_torch(qkv), written_kv=None, engine_s=0.0
        )
        hidden = stack.post_attention(layer, mix(spec, begun), hidden)
    rows = torch.from_numpy(sampled_rows(entries))
    return stack.logits(hidden[rows]).argmax(1).tolist()


@pytest.mark.parametrize("cuts", [(), (1,), (1, 2)])
def test_any_cut_into_ranges_and_shards_gives_the_tokens_of_the_whole_model(spec, load, cuts):
    token_ids = int32(np.arange(NUM_ROWS) * 7 % spec.vocab_size)
    stops = [*(cut for cut in cuts if cut < spec.num_layers), spec.num_layers]

    arrived = token_ids
    for start, stop in zip([0, *stops], stops, strict=False):
        role = layer_role(start, stop, spec.num_layers)
        outcome = through(spec, load(start, stop), role, arrived)
        if isinstance(outcome, RangeEnded):
            arrived = outcome.hidden

    assert isinstance(outcome, TokensChosen)
    whole = load(0, spec.num_layers)
    assert outcome.tokens.numpy().tolist() == expected_tokens(spec, whole, token_ids)
    assert outcome.engine_s > 0


def test_a_microbatch_without_sampled_entries_ends_with_no_token(spec, load):
    last = spec.num_layers - 1
    engine = load(last, spec.num_layers)
    entries = int32([entry(1, 0, 2, sample=False)])
    hidden = from_torch(torch.ones(2, spec.hidden_size))
    begun = engine.compute(Begin(microbatch_id=ID, layer=last, entries=entries, arrived=hidden))

    outcome = engine.compute(
        End(
            microbatch_id=ID,
            layer=last,
            carry=begun.carry,
            attention=in_shards(mix(spec, begun)),
            entries=entries,
            sampling=sampling_of(0),
        )
    )

    assert outcome.tokens.shape == (0,)
    assert outcome.top_logprobs.shape == (0, 0)


def test_microbatches_that_a_device_computes_late_and_interleaved_get_their_own_rows(spec, load):
    directory, _ = cached_checkpoint("llama3")
    role = layer_role(0, spec.num_layers, spec.num_layers)
    late = LayerEngine(directory, spec, LateDevice())
    late.compute(LoadRange(role=role))
    arrivals = [int32(np.arange(NUM_ROWS) * factor % spec.vocab_size) for factor in (7, 5)]
    ways = [travel(spec, role, arrived) for arrived in arrivals]
    works = [next(way) for way in ways]

    outcomes = []
    while not outcomes:
        launched = [late.launch(work) for work in works]
        results = [each.finish() for each in reversed(launched)][::-1]
        if isinstance(results[0], TokensChosen):
            outcomes = results
        else:
            works = [way.send(result) for way, result in zip(ways, results, strict=True)]

    whole = load(0, spec.num_layers)
    for outcome, arrived in zip(outcomes, arrivals, strict=True):
        assert outcome.tokens.numpy().tolist() == expected_tokens(spec, whole, arrived)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_microbatch_of_which_tier_2_only_writes_goes_on_without_it(spec, dtype):
    directory, _ = cached_checkpoint("llama3")
    engine = LayerEngine(directory, spec, CpuDevice())
    engine.compute(LoadRange(role=replace(layer_role(0, 4, 4), dtype=dtype)))
    entries = np.array([entry(1, 0, 5, sample=False)], np.int32)
    entries[:, FLAGS] |= LOCAL
    token_ids = int32([1, 2, 3, 4, 5])
    begin = Begin(microbatch_id=ID, layer=0, entries=int32(entries), arrived=token_ids)
    begun = engine.compute(begin)

    advanced = engine.compute(Advance(microbatch_id=ID, layer=0, carry=begun.carry, attention=()))

    assert advanced.written_kv.shape == (5, 2 * spec.kv_size)
    assert advanced.written_kv.dtype == dtype


@pytest.mark.parametrize("token_id", [-1, 10**6])
def test_token_ids_outside_the_vocabulary_are_refused(spec, load, token_id):
    work = Begin(microbatch_id=ID, layer=0, entries=int32([entry(1)]), arrived=int32([token_id]))

    with pytest.raises(WireError, match="the model has"):
        load(0, spec.num_layers).compute(work)


@pytest.mark.parametrize("position", [-1, 10**6])
def test_positions_that_the_model_lacks_are_refused(spec, load, position):
    entries = int32([entry(1, position)])
    work = Begin(microbatch_id=ID, layer=0, entries=entries, arrived=int32([1]))

    with pytest.raises(WireError, match=f"positions from {position} to {position}"):
        load(0, spec.num_layers).compute(work)


@pytest.mark.parametrize("shape", [(1, 64), (2, 63)])
def test_shards_that_do_not_join_to_the_rows_are_refused(spec, load, shape):
    engine = load(0, spec.num_layers)
    entries = int32([entry(1, 0, 2)])
    begun = engine.compute(Begin(microbatch_id=ID, layer=0, entries=entries, arrived=int32([1, 2])))
    shards = in_shards(torch.ones(shape))

    with pytest.raises(WireError, match="they must join to"):
        engine.compute(Advance(microbatch_id=ID, layer=0, carry=begun.carry, attention=shards))


@pytest.mark.parametrize("offset", [0, 1, 3])
def test_received_memory_may_be_read_only_and_at_any_address(spec, load, offset):
    engine = load(0, spec.num_layers)
    token_ids, entries = int32([1, 2]), int32([entry(1, 0, 2)])

    def moved(tensor: Tensor) -> Tensor:
        memory = memoryview(bytes(offset) + bytes(tensor.memory))[offset:]
        return Tensor(dtype=tensor.dtype, shape=tensor.shape, memory=memory)

    expected = engine.compute(Begin(microbatch_id=ID, layer=0, entries=entries, arrived=token_ids))
    begun = engine.compute(
        Begin(microbatch_id=ID, layer=0, entries=moved(entries), arrived=moved(token_ids))
    )

    assert bytes(begun.qkv.memory) == bytes(expected.qkv.memory)
