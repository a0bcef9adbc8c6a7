"""The conversation about membership: who is there, as what, and until when."""

from typing import Literal

from common.ids import Endpoint, Epoch, MicrobatchId, Term, WorkerId
from common.messages.base import Message, Record, message, record

Role = Literal["layer_worker", "attention_worker", "kv_manager"]

Quantization = Literal["none", "w8a8", "w8a16", "w4a16"]
"""How a layer's linears compute: as their dtype says, with weights and activations in int8, with
weights alone in int8, or with the 4 bits that a checkpoint has of each weight."""


@record
class LayerRole(Record):
    """What a layer worker is to be: the layers `[start, stop)` of the model."""

    start: int
    stop: int
    first: bool
    """The range embeds token ids."""
    last: bool
    """The range classifies and samples."""
    dtype: str
    """Of weights and activations: `bf16`, `fp16` or `fp32`."""
    quantization: Quantization
    """Of the linears inside the layers."""


@record
class AttentionRole(Record):
    """What an attention worker is to be: the shape of the keys and values it holds."""

    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_size: int
    sliding_windows: tuple[int | None, ...]
    """Per layer; None attends to all earlier positions."""
    page_size: int
    """Tokens per page."""
    kv_dtype: str
    useful_pages: int
    """More have no use: they hold as many requests as may run, each of the full length."""


@record
class LinkBytes(Record):
    """How much a worker has sent to one peer."""

    peer: WorkerId
    sent_bytes: int
    """Bytes of tensors since start."""


@message("member.register")
class Register(Message):
    """Worker → router: here I am. Repeated until answered; a new epoch is the loss of the old."""

    worker_id: WorkerId
    epoch: Epoch
    role: Role
    endpoint: Endpoint
    """The address at which peers reach this worker's inbox."""
    host: str
    """Name of the machine; workers with equal hosts share its cores."""
    ordinal: int | None
    """Preferred place among the workers of its role, for example a StatefulSet's ordinal."""
    model: str | None
    """Fingerprint of model spec and weights (layer workers only)."""
    kernel_path: str
    """How it computes, for example `cpu-torch` or `cuda`; mixed clusters say so in their report."""
    term: Term
    """The highest term it has heard of; 0 = none. A router of a lower one has lost its job store."""


@message("member.registered")
class Registered(Message):
    """Router → worker: you are a member, and this is your role."""

    layers: LayerRole | None
    attention: AttentionRole | None
    heartbeat_s: float
    """Time between two heartbeats."""


@message("member.register_refused")
class RegisterRefused(Message):
    """Router → worker: you cannot be a member, or no longer; stop and say why."""

    reason: str


@message("member.ready")
class WorkerReady(Message):
    """Worker → router: weights are loaded or pages allocated; send me work. Repeated."""

    worker_id: WorkerId
    epoch: Epoch
    num_pages: int
    """Capacity of the page pool; 0 for workers that hold no pages."""
    layers: LayerRole | None
    """What is loaded: a word about an earlier role must not count for the present one."""


@message("member.heartbeat")
class Heartbeat(Message):
    """Worker → router: my loop turns, and this is how far I am."""

    worker_id: WorkerId
    epoch: Epoch
    progress: int
    """Engine visits done since start. A busy worker whose number stands still hangs."""
    busy: bool
    """Its engine has something to do."""
    busy_s: float
    """Seconds of engine time since start."""
    tokens_per_s: float
    """Tokens of one layer that it attended to per second of engine time, generating; 0 = none yet."""
    links: tuple[LinkBytes, ...]
    waiting_for: tuple[WorkerId, ...]
    """Peers whose answers it misses."""


@message("member.router_heartbeat")
class RouterHeartbeat(Message):
    """Router → worker: my loop turns; drop what belongs to older microbatches than this."""

    oldest_live: MicrobatchId


@message("member.drain")
class Drain(Message):
    """Router → worker: nobody needs you any more; finish what you have and exit 0."""

    deadline_s: float


@message("member.drain_wanted")
class DrainWanted(Message):
    """Worker → router: I was asked to end; `Drain` me once nobody needs me. Repeated until then."""

    worker_id: WorkerId
    epoch: Epoch
    deadline_s: float
    """So long what it has may take to end there; then it is to be computed elsewhere."""


@message("member.leaving")
class WorkerLeaving(Message):
    """Router → KV manager: nobody may move to this worker any more."""

    worker_id: WorkerId
    epoch: Epoch


@message("member.joined")
class WorkerJoined(Message):
    """Router → KV manager: an attention worker offers pages. Repeated with each heartbeat."""

    worker_id: WorkerId
    epoch: Epoch
    num_pages: int
    page_size: int


@message("member.lost")
class WorkerLost(Message):
    """A worker's life is over. Router → KV manager: its pages are gone. Worker → router: I leave."""

    worker_id: WorkerId
    epoch: Epoch
