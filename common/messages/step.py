"""The conversation of a step: a microbatch's way through both tiers and home.

Letters in shapes: R entries, T token rows, S sampled entries, N page table cells, d model width,
H query heads, G KV heads, D head size, K logprobs per entry, C entries with a grammar.
"""

from common.ids import Endpoint, Epoch, MicrobatchId, WorkerId
from common.messages.base import Message, Record, message, record
from common.messages.tensor import Tensor


@record
class Hop(Record):
    """A process on a microbatch's way: where it is, and which life of it is meant."""

    worker_id: WorkerId
    endpoint: Endpoint
    epoch: Epoch


@record
class Shard(Record):
    """The part of a microbatch that lives on one attention worker: contiguous entries and rows."""

    worker: Hop
    start_entry: int
    stop_entry: int
    start_row: int
    stop_row: int
    start_page: int
    stop_page: int
    """Cells `[start_page, stop_page)` of the page table."""


@record
class Route(Record):
    """A microbatch's way. Workers need no topology: it travels with the microbatch."""

    layer_workers: tuple[Hop, ...]
    """One per layer range, in layer order."""
    shards: tuple[Shard, ...]


@record
class Grammars(Record):
    """What the tokens of some sampled entries must spell, and what they have spelled so far.

    Where an entry is in its grammar follows from these tokens alone, so that any last range can
    sample any step; four bytes a token are less than the entry's hidden row.
    """

    entries: Tensor
    """int32 [C, 4]: place among the sampled entries, rising; request; its grammar, from 0; its share
    of `tokens`."""
    tokens: Tensor
    """int32 [sum]: generated tokens of each of these entries."""
    texts: Tensor
    """int8 [sum]: the grammars as llguidance spells them, in UTF-8, one after the other."""
    text_sizes: Tensor
    """int32 [G]: bytes of each."""


@record
class Sampling(Record):
    """How to choose the tokens of the sampled entries, in their order.

    Stateless: an entry that needs its history (penalties) brings it along, so that any last range
    can sample any step.
    """

    floats: Tensor
    """fp32 [S, 6]: temperature (0 = greedy), top_p, min_p, presence, frequency and repetition
    penalty."""
    ints: Tensor
    """int32 [S, 5]: top_k (0 = all), logprobs wanted (0 = none; 1 + the number of alternatives),
    then the entry's share of `history` (prompt tokens, output tokens) and of the biases."""
    uniforms: Tensor
    """fp64 [S]: one number in [0, 1) per (seed, line, choice, position)."""
    history: Tensor
    """int32 [sum]: prompt tokens, then output tokens, of each entry that has penalties."""
    bias_tokens: Tensor
    """int32 [sum]: token ids whose logits are moved."""
    bias_values: Tensor
    """fp32 [sum]: added to those logits; -inf forbids a token (min_tokens)."""
    grammars: Grammars | None
    """None if every entry may say what it likes."""


@record
class StageTimes(Record):
    """Where a microbatch's time went so far, summed over layers and ranges; rides home with it."""

    tier1_s: float
    """Seconds in layer engines."""
    tier2_s: float
    """Seconds in attention engines, of the slowest shard of each layer."""
    wait_s: float
    """Seconds between handing out the shards of a layer and having the last one back."""
    queue_s: float
    """Seconds spent ready but waiting for a layer engine."""
    attention_s: float
    """Seconds in attention engines, of all shards."""
    attention_queue_s: float
    """Seconds waiting for an attention engine, of each layer's slowest shard."""


@message("step.forward")
class ForwardMicrobatch(Message):
    """Router → first layer worker: take these entries one step further."""

    microbatch_id: MicrobatchId
    oldest_live: MicrobatchId
    """Microbatches below it have ended: drop what belongs to them."""
    route: Route
    entries: Tensor
    """int32 [R, 6], see `common.messages.entries`."""
    page_table: Tensor
    """int32 [N]"""
    token_ids: Tensor
    """int32 [T]"""
    sampling: Sampling


@message("step.hidden")
class HiddenStates(Message):
    """Layer worker → the next range's: the residual rows after my last layer."""

    microbatch_id: MicrobatchId
    oldest_live: MicrobatchId
    route: Route
    range_index: int
    """The receiver's place in `route.layer_workers`."""
    entries: Tensor
    page_table: Tensor
    sampling: Sampling
    hidden: Tensor
    """[T, d]"""
    times: StageTimes


@message("step.attend")
class AttentionRequest(Message):
    """Layer worker → attention worker: write these keys and values, and attend."""

    microbatch_id: MicrobatchId
    oldest_live: MicrobatchId
    layer: int
    shard: int
    """The shard's place in the route, to be given back."""
    reply_to: Hop
    entries: Tensor
    """int32 [R, 6] of the shard"""
    page_table: Tensor
    """int32 [N] of the shard"""
    qkv: Tensor
    """[T, (H + 2 G) D]: query heads, key heads, value heads, rotated."""


@message("step.write")
class WriteRequest(Message):
    """Layer worker → attention worker: write these keys and values; nothing attends."""

    microbatch_id: MicrobatchId
    oldest_live: MicrobatchId
    layer: int
    shard: int
    """The shard's place in the route, to be given back."""
    reply_to: Hop
    entries: Tensor
    """int32 [R, 6], the shard's last ones"""
    page_table: Tensor
    """int32 [N] of these entries"""
    kv: Tensor
    """[T, 2 G D]: key heads, value heads, rotated."""


@message("step.written")
class Written(Message):
    """Attention worker → layer worker: these keys and values are in their pages."""

    microbatch_id: MicrobatchId
    layer: int
    shard: int


@message("step.attended")
class AttentionResult(Message):
    """Attention worker → layer worker: what the shard's rows attended to."""

    microbatch_id: MicrobatchId
    layer: int
    shard: int
    output: Tensor
    """[T, H D]"""
    log_sums: Tensor | None
    """fp32 [L, H], of the rows of local entries: the logarithm of the sum of exp of their scores.
    None if there are none."""
    engine_s: float
    queue_s: float
    """Seconds that it waited for the engine."""


@message("step.sampled")
class SampledTokens(Message):
    """Last layer worker → router: the microbatch is home. Names every entry, sampled or not."""

    microbatch_id: MicrobatchId
    request_ids: Tensor
    """int32 [R], as in the entries."""
    tokens: Tensor
    """int32 [S], of the entries that were to be sampled, in their order."""
    finite: Tensor
    """int8 [S]: 0 where the logits were not finite; such a token means nothing."""
    logprobs: Tensor
    """fp32 [S]: log-probability of the token; 0 where none were wanted."""
    top_tokens: Tensor
    """int32 [S, K]: the likeliest tokens, best first; K = the most that any entry wants."""
    top_logprobs: Tensor
    """fp32 [S, K]"""
    times: StageTimes


@message("step.failed")
class StepFailed(Message):
    """Worker → router: this microbatch cannot go on."""

    microbatch_id: MicrobatchId
    worker_id: WorkerId
    reason: str
    blames: WorkerId | None
    """The peer that cannot be reached, if that is the reason."""
