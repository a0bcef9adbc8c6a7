"""What must hold between the fields of a message, beyond the type of each.

The codec calls `check` on everything that arrives, so that a service never sees an array that its
neighbours contradict. Vectorised: on the data path nothing runs per entry.
"""

import reprlib
from functools import lru_cache, singledispatch
from math import inf
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.config import MAX_DRAIN_S
from common.errors import WireError
from common.messages.base import Message
from common.messages.entries import (
    FLAGS,
    LOCAL_ALIGNMENT,
    NUM_COLUMNS,
    NUM_PAGES,
    NUM_PROMPT,
    NUM_ROWS,
    SAMPLE,
    START,
    Entries,
    has_local,
    is_local,
    is_written,
)
from common.messages.kv import (
    HASH_BYTES,
    MAX_PAGE_HASHES,
    PagesFilled,
    PagesReserved,
    ReservePages,
    SpeedsMeasured,
    Tables,
)
from common.messages.member import Drain, DrainWanted, Registered, WorkerJoined, WorkerReady
from common.messages.step import (
    AttentionRequest,
    AttentionResult,
    ForwardMicrobatch,
    Grammars,
    HiddenStates,
    Route,
    SampledTokens,
    Sampling,
    WriteRequest,
)
from common.messages.tensor import Tensor

ACTIVATIONS = ("bf16", "fp16", "fp32")
INT32 = ("int32",)
FP32 = ("fp32",)
INT32_MAX = 2**31 - 1
KEYS_AND_VALUES = (*ACTIVATIONS, "int8")

MAX_PAGES = 2**24
"""Pages of a pool: a billion tokens, and no more than the KV manager can keep books of."""
_MAX_REMEMBERED_BYTES = 1 << 18


@singledispatch
def check(message: Message) -> None:
    """Refuse a message whose fields contradict each other; most kinds have none that could.

    Raises:
        WireError: They do.
    """


@check.register(Registered)
def _(message: Registered) -> None:
    if not 0 < message.heartbeat_s < inf:
        raise WireError(f"a heartbeat every {message.heartbeat_s} s")
    if message.layers is not None and message.layers.dtype not in ACTIVATIONS:
        raise WireError(f"layers in {reprlib.repr(message.layers.dtype)}")
    if message.attention is not None and message.attention.kv_dtype not in KEYS_AND_VALUES:
        raise WireError(f"keys and values in {reprlib.repr(message.attention.kv_dtype)}")


@check.register(WorkerReady)
@check.register(WorkerJoined)
def _(message: WorkerReady | WorkerJoined) -> None:
    if message.num_pages > MAX_PAGES:
        raise WireError(f"{message.num_pages} pages, {MAX_PAGES} are allowed")
    if isinstance(message, WorkerJoined) and message.page_size < 1:
        raise WireError(f"pages of {message.page_size} tokens")


@check.register(Drain)
@check.register(DrainWanted)
def _(message: Drain | DrainWanted) -> None:
    if not 0 <= message.deadline_s <= MAX_DRAIN_S:
        raise WireError(f"{message.deadline_s} s to leave, {MAX_DRAIN_S} are allowed")


@check.register(ReservePages)
def _(message: ReservePages) -> None:
    _check_hashes(message.page_hashes)


@check.register(PagesReserved)
def _(message: PagesReserved) -> None:
    if message.num_found > len(message.new_pages):
        raise WireError(f"{message.num_found} pages found of {len(message.new_pages)}")


@check.register(PagesFilled)
def _(message: PagesFilled) -> None:
    for filled in message.filled:
        _check_hashes(filled.page_hashes)


@check.register(Tables)
def _(message: Tables) -> None:
    if not message.part < message.num_parts:
        raise WireError(f"part {message.part} of {message.num_parts}")
    for table in message.tables:
        _check_hashes(table.page_hashes)
        if table.num_sealed > min(len(table.pages), len(table.page_hashes) // HASH_BYTES):
            raise WireError(f"{table.num_sealed} pages sealed of {len(table.pages)}")


@check.register(SpeedsMeasured)
def _(message: SpeedsMeasured) -> None:
    for speed in message.speeds:
        if not 0 < speed.tokens_per_s < inf:
            raise WireError(f"{speed.worker_id} attends to {speed.tokens_per_s} tokens/s")


@check.register(ForwardMicrobatch)
def _(message: ForwardMicrobatch) -> None:
    _demand("token_ids", message.token_ids, INT32, _check_microbatch(message))
    _demand_natural("token_ids", message.token_ids)


@check.register(HiddenStates)
def _(message: HiddenStates) -> None:
    _demand("hidden", message.hidden, ACTIVATIONS, _check_microbatch(message), None)
    if message.range_index >= len(message.route.layer_workers):
        raise WireError(f"range {message.range_index} of {len(message.route.layer_workers)}")


@check.register(AttentionRequest)
def _(message: AttentionRequest) -> None:
    num_rows = _count_attending_rows(message.entries, message.page_table)
    _demand("qkv", message.qkv, ACTIVATIONS, num_rows, None)


@check.register(WriteRequest)
def _(message: WriteRequest) -> None:
    ends = _check_entries(message.entries, message.page_table)
    _demand("kv", message.kv, ACTIVATIONS, int(ends[-1, 0]), None)


def _check_microbatch(message: ForwardMicrobatch | HiddenStates) -> int:
    """Check what travels with a microbatch through all ranges; gives its number of token rows."""
    ends = _check_entries(message.entries, message.page_table)
    columns = message.entries.numpy()
    _check_route(message.route, ends)
    _check_tails(message.route, columns)
    _check_sampling(message.sampling, columns)
    return int(ends[-1, 0])


@check.register(AttentionResult)
def _(message: AttentionResult) -> None:
    _demand("output", message.output, ACTIVATIONS, None, None)
    if message.log_sums is not None:
        _demand("log_sums", message.log_sums, FP32, None, None)


@check.register(SampledTokens)
def _(message: SampledTokens) -> None:
    _demand("request_ids", message.request_ids, INT32, None)
    _demand("tokens", message.tokens, INT32, None)
    _demand("top_tokens", message.top_tokens, INT32, None, None)
    (num_entries,), (num_sampled,) = message.request_ids.shape, message.tokens.shape
    if num_sampled > num_entries:
        raise WireError(f"{num_sampled} tokens for {num_entries} entries")
    _demand("finite", message.finite, ("int8",), num_sampled)
    _demand("logprobs", message.logprobs, FP32, num_sampled)
    _demand("top_tokens", message.top_tokens, INT32, num_sampled, None)
    _demand("top_logprobs", message.top_logprobs, FP32, *message.top_tokens.shape)
    for name in ("request_ids", "tokens", "top_tokens"):
        _demand_natural(name, getattr(message, name))


def _check_hashes(page_hashes: bytes) -> None:
    if len(page_hashes) % HASH_BYTES or len(page_hashes) > MAX_PAGE_HASHES * HASH_BYTES:
        raise WireError(f"{len(page_hashes)} bytes are not up to {MAX_PAGE_HASHES} page hashes")


def _count_attending_rows(entries: Tensor, page_table: Tensor) -> int:
    """Check the entries of a shard; in all layers but the first they are those of the layer before."""
    _demand("entries", entries, INT32, None, NUM_COLUMNS)
    _demand("page_table", page_table, INT32, None)
    size_bytes = entries.size_bytes + page_table.size_bytes
    check_and_count = _check_shard if size_bytes > _MAX_REMEMBERED_BYTES else _remembered_check
    return check_and_count(bytes(entries.memory), bytes(page_table.memory))


def _check_shard(entries: bytes, page_table: bytes) -> int:
    columns = np.frombuffer(entries, np.int32).reshape(-1, NUM_COLUMNS)
    ends = _check_entries(Tensor.of(columns), Tensor.of(np.frombuffer(page_table, np.int32)))
    if is_written(columns).any():
        raise WireError("an entry that attends to nothing is to attend")
    return int(ends[-1, 0])


_remembered_check = lru_cache(maxsize=64)(_check_shard)


def _check_entries(entries: Tensor, page_table: Tensor) -> NDArray[np.int64]:
    """Check both arrays.

    Shapes:
        entries: [R, 6], page_table: [N] -> [R, 2], rows and pages of the entries up to each.
    """
    _demand("entries", entries, INT32, None, NUM_COLUMNS)
    columns = entries.numpy()
    if not len(columns):
        raise WireError("no entries")
    lowest = np.minimum.reduce(columns).tolist()  # [6]
    if min(lowest) < 0:
        raise WireError(f"entries holds {min(lowest)}")
    if lowest[NUM_ROWS] < 1 or lowest[NUM_PAGES] < 1:
        raise WireError("an entry without a row or without a page")
    # The sum of two natural numbers that exceeds an int32 comes out negative.
    if np.bitwise_or.reduce(columns[:, START] + columns[:, NUM_ROWS]) < 0:
        raise WireError(f"an entry with positions above {INT32_MAX}")
    if has_local(columns):
        _check_local(columns)
    shares = columns[:, NUM_ROWS : NUM_PAGES + 1]  # [R, 2], as these columns are neighbours
    ends: NDArray[np.int64] = shares.cumsum(axis=0, dtype=np.int64)
    _demand("page_table", page_table, INT32, int(ends[-1, 1]))
    _demand_natural("page_table", page_table)
    return ends


def _check_local(entries: Entries) -> None:
    local = entries[is_local(entries)]
    if not len(local):
        return
    if (local[:, START] % LOCAL_ALIGNMENT).any():
        raise WireError(f"a local entry that does not start at a multiple of {LOCAL_ALIGNMENT}")
    if (local[:, START] + local[:, NUM_ROWS] > local[:, NUM_PROMPT]).any():
        raise WireError("a local entry with rows that are not prompt")


def _check_route(route: Route, ends: NDArray[np.int64]) -> None:
    if not route.layer_workers:
        raise WireError("a route without layer workers")
    num_entries = len(ends)
    start = (0, 0, 0)
    for shard in route.shards:
        if (shard.start_entry, shard.start_row, shard.start_page) != start:
            raise WireError(f"a shard that does not start at entry, row, page {start}")
        if not shard.start_entry < shard.stop_entry <= num_entries:
            raise WireError(f"a shard up to entry {shard.stop_entry} of {num_entries}")
        stop = (shard.stop_entry, *ends[shard.stop_entry - 1].tolist())
        if (shard.stop_entry, shard.stop_row, shard.stop_page) != stop:
            raise WireError(f"a shard that does not stop at entry, row, page {stop}")
        start = stop
    if start[0] != num_entries:
        raise WireError(f"shards for {start[0]} of {num_entries} entries")


def _check_tails(route: Route, entries: Entries) -> None:
    """Refuse a shard in which an entry that attends comes after one that is only written."""
    if not has_local(entries):
        return
    written = is_written(entries)
    if written.any():
        rises = np.flatnonzero(written[:-1] & ~written[1:]) + 1
        starts = [shard.start_entry for shard in route.shards]
        if not np.isin(rises, starts).all():
            raise WireError("an entry that attends after one that is only written")


def _check_sampling(sampling: Sampling, entries: Entries) -> None:
    num_sampled = int(np.count_nonzero(entries[:, FLAGS] & SAMPLE))
    _demand("floats", sampling.floats, FP32, num_sampled, 6)
    _demand("ints", sampling.ints, INT32, num_sampled, 5)
    _demand("uniforms", sampling.uniforms, ("fp64",), num_sampled)
    uniforms = sampling.uniforms.numpy()
    # What is not a number is the least and the greatest of what it is among.
    if num_sampled and not 0 <= np.minimum.reduce(uniforms) <= np.maximum.reduce(uniforms) < 1:
        raise WireError("a uniform number outside [0, 1)")
    ints = _demand_natural("ints", sampling.ints)
    sums = np.add.reduce(ints, axis=0, dtype=np.int64).tolist()
    _demand("history", sampling.history, INT32, sums[2] + sums[3])
    _demand("bias_tokens", sampling.bias_tokens, INT32, sums[4])
    _demand("bias_values", sampling.bias_values, FP32, sums[4])
    _demand_natural("history", sampling.history)
    _demand_natural("bias_tokens", sampling.bias_tokens)
    if sampling.grammars is not None:
        _check_grammars(sampling.grammars, num_sampled)


def _check_grammars(grammars: Grammars, num_sampled: int) -> None:
    _demand("grammars", grammars.entries, INT32, None, 4)
    _demand("text_sizes", grammars.text_sizes, INT32, None)
    entries = _demand_natural("grammars", grammars.entries)
    sizes = _demand_natural("text_sizes", grammars.text_sizes)
    if len(entries) and not (np.diff(entries[:, 0], append=num_sampled) > 0).all():
        raise WireError(f"grammars of entries that do not rise to less than {num_sampled}")
    if len(entries) and entries[:, 2].max() >= len(sizes):
        raise WireError(f"grammar {entries[:, 2].max()} of {len(sizes)}")
    _demand("grammar tokens", grammars.tokens, INT32, int(entries[:, 3].sum(dtype=np.int64)))
    _demand("grammar texts", grammars.texts, ("int8",), int(sizes.sum(dtype=np.int64)))
    _demand_natural("grammar tokens", grammars.tokens)


def _demand(name: str, tensor: Tensor, dtypes: tuple[str, ...], *shape: int | None) -> None:
    """Refuse a tensor of another dtype or shape; None stands for any size."""
    if tensor.dtype not in dtypes or not _fits(tensor.shape, shape):
        expected = [size if size is not None else "any" for size in shape]
        raise WireError(
            f"{name} is {tensor.dtype} {list(tensor.shape)}, expected {'/'.join(dtypes)} {expected}"
        )


def _fits(shape: tuple[int, ...], wanted: tuple[int | None, ...]) -> bool:
    if shape == wanted:
        return True
    if len(shape) != len(wanted):
        return False
    for size, want in zip(shape, wanted, strict=True):
        if want is not None and size != want:
            return False
    return True


def _demand_natural(name: str, tensor: Tensor) -> NDArray[Any]:
    array = tensor.numpy()
    # The sign of all of them at once, in a third of the time that the least of them takes.
    if array.size and np.bitwise_or.reduce(array, axis=None) < 0:
        raise WireError(f"{name} holds {array.min()}")
    return array
