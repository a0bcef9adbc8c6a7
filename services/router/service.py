"""The router as a process: its state, the desk, the HTTP API, and the loop around them."""

import asyncio
import time
from math import ceil
from pathlib import Path

from common.checkpoint_header import check_checkpoint, model_fingerprint
from common.errors import GlinthawkError, SettingsError
from common.ids import Endpoint, Term
from common.log import get_logger
from common.messages import AttentionRole
from common.messages.checks import MAX_PAGES
from common.model_spec import ModelSpec, read_model_spec, resolve_model
from common.runtime.counters import Counters
from common.runtime.fence import RouterFence
from common.runtime.loop import Part, ServiceLoop
from common.runtime.mailbox import Mailbox
from common.runtime.metrics import Metrics
from common.runtime.process import Identity
from common.runtime.security import open_locksmith, reload_on_hangup
from common.runtime.trace import watch
from common.wire.distance import Distance
from common.wire.limits import WireLimits
from common.wire.transport import Transport
from services.router.bookkeeper import Bookkeeper
from services.router.calls import Calls
from services.router.config import RouterSettings, choose_dtype, count_layers
from services.router.desk import JobDesk
from services.router.http.app import create_app
from services.router.http.guard import BodyLimits, Guard
from services.router.http.keys import ApiKeys
from services.router.http.server import HttpServer, listen
from services.router.lines import LineNews, LineOutcome, PrefixGrown, TokenStreamed
from services.router.membership import ClusterShape, cut_layers
from services.router.metrics import RouterMetrics, router_readings
from services.router.overview import Overview
from services.router.page_rules import PageRules
from services.router.state import RouterState, Times
from services.router.store.job_rules import JobRules
from services.router.store.store_thread import StoreThread
from services.router.text.ingest import Ingest, Reader
from services.router.text.line_parser import ServedModel
from services.router.text.steady_ingest import SteadyIngest
from services.router.text.tokens import Tokenizer
from services.router.throttle import Rules

FLUSH_TIMEOUT_S = 5.0
"""How long the last results may take to reach the disk when the router ends."""


def build(settings: RouterSettings, identity: Identity) -> ServiceLoop:
    """Put the service together: the store is open and the HTTP port taken, nothing else.

    Raises:
        ModelRefused: The checkpoint cannot be served.
        SettingsError: A setting does not fit the model, or the port or data directory is taken.
    """
    if not settings.model:
        message = "no model: give --model, a checkpoint's directory or a hub id"
        raise SettingsError(message)
    directory = resolve_model(settings.model)
    spec = read_model_spec(directory)
    if settings.compute == "real":
        check_checkpoint(directory, spec)
    shape = cluster_shape(settings, spec, directory)
    served = served_model(settings, spec, directory)
    return _Router(settings, identity, shape, served).loop


def cluster_shape(settings: RouterSettings, spec: ModelSpec, directory: Path) -> ClusterShape:
    """Cut the model for the cluster that the settings ask for.

    Raises:
        SettingsError: The ranges, lengths or quantization do not fit the model.
    """
    counts = count_layers(settings, spec.num_layers)
    pages_per_request = ceil(max_model_len(settings, spec) / settings.block_size)
    if pages_per_request > WireLimits().max_items:
        message = (
            f"a request may take {pages_per_request} pages, a grant names at most "
            f"{WireLimits().max_items}: raise --block-size or lower --max-model-len"
        )
        raise SettingsError(message)
    if settings.quantization == "w4a16" and spec.packing is None:
        message = "--quantization w4a16 is for AWQ and GPTQ checkpoints: give w8a16, or none"
        raise SettingsError(message)
    dtype = choose_dtype(settings.dtype, spec.dtype)
    return ClusterShape(
        model=model_fingerprint(directory, spec, emulated=settings.compute == "emulated"),
        ranges=cut_layers(counts, dtype, settings.quantization),
        attention=AttentionRole(
            num_layers=spec.num_layers,
            num_heads=spec.num_heads,
            num_kv_heads=spec.num_kv_heads,
            head_size=spec.head_size,
            sliding_windows=spec.sliding_windows,
            page_size=settings.block_size,
            kv_dtype=choose_dtype(settings.kv_cache_dtype, dtype),
            useful_pages=min(settings.max_num_seqs * pages_per_request, MAX_PAGES),
        ),
        min_attention_workers=settings.attention_workers,
    )


def max_model_len(settings: RouterSettings, spec: ModelSpec) -> int:
    """Give the tokens that a request may come to.

    Raises:
        SettingsError: The setting is beyond what the model can tell apart.
    """
    wanted = settings.max_model_len or spec.max_model_len
    if wanted > spec.max_model_len:
        message = f"--max-model-len {wanted} is beyond the model's {spec.max_model_len}: lower it"
        raise SettingsError(message)
    return wanted


def served_model(settings: RouterSettings, spec: ModelSpec, directory: Path) -> ServedModel:
    """Say what lines are checked against; a line may call the model as it likes."""
    return ServedModel(
        names=(),
        directory=str(directory),
        max_model_len=max_model_len(settings, spec),
        vocab_size=spec.vocab_size,
        eos_token_ids=spec.eos_token_ids,
    )


def router_state(
    settings: RouterSettings, shape: ClusterShape, term: Term, tokenizer: Tokenizer
) -> RouterState:
    """Make the state of one life of the router."""
    rules = Rules(
        pages=PageRules(
            policy=settings.kv_policy,
            share_prefixes=settings.enable_prefix_caching,
            max_requests=settings.max_num_seqs,
        ),
        max_entries=settings.microbatch_entries or settings.max_num_seqs,
        max_rows=settings.max_num_batched_tokens,
        in_flight=settings.in_flight,
        prefill_attention=settings.prefill_attention,
        checkpoint_tokens=settings.checkpoint_tokens,
    )
    times = Times(
        heartbeat_s=settings.heartbeat_s,
        lease_s=settings.lease_s,
        kv_patience_s=settings.kv_patience_s,
        stop_timeout_s=settings.stop_timeout_s,
    )
    return RouterState(
        shape, term, rules, times, lambda skip: tokenizer.decoder(skip_special_tokens=skip)
    )


class _Router:
    """Holds the parts of a router until they live in its loop."""

    def __init__(
        self,
        settings: RouterSettings,
        identity: Identity,
        shape: ClusterShape,
        served: ServedModel,
    ) -> None:
        self._settings = settings
        self._shape = shape
        self._served = served
        self._tokenizer = Tokenizer(Path(served.directory))
        self._locksmith = open_locksmith(settings)
        self._api_keys = ApiKeys(settings.api_key_file) if settings.api_key_file else None
        self._socket = listen(settings)
        self._store = StoreThread(settings.data_directory)
        transport = Transport(
            bind=settings.bind,
            worker_id=identity.worker_id,
            epoch=identity.epoch,
            # All running requests may give their pages back at once, and say so again if unanswered.
            limits=WireLimits(max_queued=WireLimits().max_queued + 2 * settings.max_num_seqs),
            locksmith=self._locksmith,
            distance=Distance(settings.link_delay_ms / 1000, settings.link_mbit_per_s),
        )
        watched = watch(settings, identity, transport)
        counters = Counters()
        metrics = Metrics(counters)
        self._metrics = RouterMetrics(metrics)
        self.loop = ServiceLoop(
            self._make_state,
            Mailbox(watched.carrier, RouterFence(self._store.term), counters),
            perform=self._perform,
            parts=(self._serve, *watched.parts, *self._rereading(), *metrics.parts(settings)),
        )
        self._overview = Overview(settings.model, served.max_model_len, self.loop.post)
        self._desk: JobDesk | None = None
        self._calls = Calls(
            Reader(served, self._tokenizer),
            self.loop.post,
            max_calls=settings.max_calls,
            seed=settings.seed,
        )

    def _rereading(self) -> tuple[Part, ...]:
        return reload_on_hangup(self._locksmith.keyring, self._api_keys)

    def _make_state(self, bound: Endpoint) -> RouterState:
        tokenizer = self._tokenizer
        state = router_state(self._settings, self._shape, self._store.term, tokenizer)
        self._overview.watch(state)
        self._metrics.watch(lambda: router_readings(state, self._calls, time.monotonic()))
        return state

    def _perform(self, news: LineNews) -> None:
        if isinstance(news, LineOutcome):
            self._metrics.line_ended(news)
        if not isinstance(news, PrefixGrown) and self._calls.takes(news):
            return
        assert self._desk, "there is news of a line before any was handed in"
        if not isinstance(news, TokenStreamed):  # its call has hung up
            self._desk.keep(news)

    async def _serve(self, loop: ServiceLoop) -> None:
        """Live beside the state: desk, ingest process and HTTP API, for as long as it lives."""
        ingest = SteadyIngest(lambda: Ingest(self._served))
        desk = self._desk = JobDesk(
            self._store,
            ingest,
            loop.post,
            JobRules(
                max_unfinished=self._settings.max_num_seqs + self._settings.ingest_ahead,
                max_job_lines=self._settings.max_job_lines,
                made_with=made_with(self._settings, self._shape, self._served),
                seed=self._settings.seed,
            ),
            Bookkeeper(self._store, self._overview.status, prices(self._settings)),
        )
        limits = BodyLimits(
            max_upload_bytes=self._settings.max_upload_bytes,
            max_body_bytes=self._settings.max_body_bytes,
        )
        app = Guard(
            create_app(desk, self._calls, self._overview, self._metrics), self._api_keys, limits
        )
        server = HttpServer(app, self._socket, self._settings)
        if self._settings.http_port_file:
            write_port(self._settings.http_port_file, self._socket.getsockname()[1])
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(desk.run())
                tasks.create_task(server.run())
        finally:
            self._calls.close()
            await _flush(desk)
            ingest.close()
            self._store.close()


async def _flush(desk: JobDesk) -> None:
    """Make durable what the state has said; what cannot be is generated again in the next life."""
    try:
        async with asyncio.timeout(FLUSH_TIMEOUT_S):
            await desk.flush()
    except (TimeoutError, GlinthawkError) as error:
        get_logger().warning("the last results were not kept", reason=repr(error))


def made_with(settings: RouterSettings, shape: ClusterShape, served: ServedModel) -> dict[str, str]:
    """Name what decides about the bits of a job's tokens; a resume with others is refused."""
    return {
        "model": shape.model,
        "dtype": shape.ranges[0].dtype,
        "kv_cache_dtype": shape.attention.kv_dtype,
        "block_size": str(shape.attention.page_size),
        "max_model_len": str(served.max_model_len),
        "prefill_attention": settings.prefill_attention,
    }


def prices(settings: RouterSettings) -> dict[str, float]:
    """Give what a worker costs per hour, by role; empty without prices."""
    given = {
        "layer_worker": settings.layer_worker_price,
        "attention_worker": settings.attention_worker_price,
    }
    return {role: price for role, price in given.items() if price is not None}


def write_port(path: Path, port: int) -> None:
    """Tell the caller which HTTP port was taken; the file appears whole."""
    part = path.with_suffix(".part")
    part.write_text(str(port))
    part.replace(path)
