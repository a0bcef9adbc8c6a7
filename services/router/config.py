"""What the router can be told: the model, the cluster's shape, and the bounds of a step."""

from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from common.config import Address, ServiceSettings
from common.errors import SettingsError
from common.ids import Endpoint
from common.messages.member import Quantization
from common.policy.prefill import PrefillAttention
from common.policy.ranges import cut_evenly

KvPolicy = Literal["guaranteed", "max-utilization"]


class RouterSettings(ServiceSettings):
    """The router's settings."""

    section: ClassVar[str] = "router"

    bind: Address = Endpoint("tcp://127.0.0.1:7400")
    """Where the router listens for workers; their `router_endpoint`."""
    model: str = ""
    """Directory of a Hugging Face checkpoint, or a hub id."""
    compute: Literal["real", "emulated"] = "real"
    """How the workers compute; an `emulated` checkpoint needs no weights, only its config."""
    data_directory: Path = Path(".glinthawk")
    """Holds the job store and uploaded files."""
    http_host: str = "127.0.0.1"
    """Interface of the HTTP API."""
    http_port: int = Field(default=8000, ge=0, le=65535)
    """Port of the HTTP API; 0 takes a free one."""
    http_without_keys: bool = False
    """Let the HTTP API serve everyone whom `http_host` lets in."""
    api_key_file: Path | None = None
    """Keys of the HTTP API, hashed; `glinthawk keys api-key` makes them."""
    tls_certificate: Path | None = None
    """Of the HTTP API, PEM with its chain; without it the API speaks plain HTTP."""
    tls_key: Path | None = None
    """The certificate's private key, PEM."""
    max_upload_bytes: int = Field(default=4 * 2**30, ge=1)
    """Bytes of an uploaded batch file."""
    max_body_bytes: int = Field(default=32 * 2**20, ge=1)
    """Bytes of any other HTTP request."""
    max_job_lines: int = Field(default=1_000_000, ge=1)
    """Lines of one job."""
    http_port_file: Path | None = None
    """Where to write the HTTP port, for a caller that let it be chosen."""

    layer_workers: int = Field(default=1, ge=1)
    """Layer ranges: the layer workers that one pipeline takes."""
    layer_counts: Annotated[str, Field(pattern=r"^\d+(,\d+)*$")] | None = None
    """Layers of each range with commas between, such as `20,12`; by default they are equal."""
    attention_workers: int = Field(default=1, ge=1)
    """Attention workers that must be there before work starts; more may join."""
    max_model_len: int | None = Field(default=None, ge=1)
    """Tokens of prompt and output; by default what the model can tell apart."""
    dtype: Literal["auto", "bf16", "fp16", "fp32", "bfloat16", "float16", "float32"] = "auto"
    """Of weights and activations; `auto` is the checkpoint's, and bf16 for fp16 ones on CPU."""
    quantization: Quantization = "none"
    """Of the layers' linears, on the fly: `w8a8` computes in int8, `w8a16` only keeps weights in it;
    `w4a16` leaves the weights of an AWQ or GPTQ checkpoint in their 4 bits."""
    kv_cache_dtype: Literal["auto", "bf16", "fp16", "fp32", "int8"] = "auto"
    """Of keys and values at rest; `auto` is that of the activations."""
    block_size: int = Field(default=64, ge=1, le=1024)
    """Tokens per page (vLLM's word for it)."""
    max_num_seqs: int = Field(default=256, ge=1)
    """Requests that hold pages at once."""
    kv_policy: KvPolicy = "max-utilization"
    """`guaranteed` reserves pages up to max_tokens; `max-utilization` grants them as a request grows
    and preempts when they run out."""
    enable_prefix_caching: bool = True
    """Share full pages of equal prefixes, and keep them until their place is needed."""
    max_num_batched_tokens: int = Field(default=2048, ge=1)
    """Token rows of one microbatch."""
    prefill_attention: PrefillAttention = "auto"
    """Where the rows of a prompt's chunk attend to each other; `auto` takes tier 1 if it is on GPUs."""
    in_flight: int | None = Field(default=None, ge=1, le=512)
    """Microbatches that travel at once; by default set, and set again, by what is measured."""
    microbatch_entries: int | None = Field(default=None, ge=1)
    """Most requests in one microbatch; by default all that run may share one."""
    seed: int | None = Field(default=None, ge=0, lt=2**63)
    """Seed of lines that bring none; by default drawn once per job and stored with it."""

    layer_worker_price: float | None = Field(default=None, ge=0)
    """What a layer worker costs per hour, in any currency; then reports of jobs have a cost."""
    attention_worker_price: float | None = Field(default=None, ge=0)
    """The same of an attention worker."""
    ingest_ahead: int = Field(default=1024, ge=1)
    """Requests that are parsed and waiting, beyond those that may run."""
    max_calls: int = Field(default=2048, ge=1)
    """Completions and chats of the HTTP API at once, running and waiting; one more gets a 429."""
    heartbeat_s: float = Field(default=1.0, gt=0)
    """Seconds between two heartbeats, of the router and of every worker."""
    lease_s: float = Field(default=3.0, gt=0)
    """A worker that was silent for so many seconds counts as lost."""
    checkpoint_tokens: int = Field(default=64, ge=1)
    """Tokens that a request generates until they are written to the job store, for a restart."""
    kv_patience_s: float = Field(default=2.0, gt=0)
    """Seconds after which an unanswered word to the KV manager is repeated."""

    @model_validator(mode="after")
    def _check_tls(self) -> Self:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("TLS needs both tls_certificate and tls_key")
        return self


def count_layers(settings: RouterSettings, num_layers: int) -> tuple[int, ...]:
    """Give the layers of each range.

    Raises:
        SettingsError: There are more ranges than layers, or the counts do not fit.
    """
    num_ranges = settings.layer_workers
    if num_ranges > num_layers:
        message = (
            f"{num_ranges} layer workers for {num_layers} layers: "
            f"give at most --layer-workers {num_layers}"
        )
        raise SettingsError(message)
    if settings.layer_counts is None:
        return cut_evenly(num_layers, num_ranges)
    counts = tuple(map(int, settings.layer_counts.split(",")))
    if len(counts) != num_ranges or sum(counts) != num_layers or 0 in counts:
        message = (
            f"--layer-counts {settings.layer_counts} must be {num_ranges} numbers from 1 on (as "
            f"--layer-workers) with a sum of {num_layers}"
        )
        raise SettingsError(message)
    return counts


_LONG_NAMES = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}


def choose_dtype(wanted: str, checkpoint: str) -> str:
    """Give the dtype to compute in: `bf16`, `fp16` or `fp32`.

    `auto` never computes fp16 checkpoints in fp16: CPUs are unusably slow at it.
    """
    if wanted == "auto":
        return "bf16" if checkpoint == "fp16" else checkpoint
    return _LONG_NAMES.get(wanted, wanted)
