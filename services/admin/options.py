"""The options of a cluster on this machine; the settings of its services declare them, once."""

from collections.abc import Callable, Mapping
from inspect import Parameter, Signature
from typing import Annotated, Any

import typer
from pydantic.fields import FieldInfo

from common.config import ComputeSettings, load_settings
from common.errors import SettingsError
from services.admin.local_cluster import ClusterPlan
from services.admin.preflight import check_plan
from services.attention_worker.config import AttentionWorkerSettings
from services.layer_worker.config import LayerWorkerSettings
from services.router.config import RouterSettings

_ROUTER = (
    "model",
    "layer_workers",
    "attention_workers",
    "in_flight",
    "microbatch_entries",
    "prefill_attention",
    "max_model_len",
    "dtype",
    "quantization",
    "kv_cache_dtype",
    "block_size",
    "max_num_seqs",
    "max_num_batched_tokens",
    "kv_policy",
    "enable_prefix_caching",
    "seed",
    "compute",
)
_ATTENTION = ("kv_memory",)
_SHARED = ("link_delay_ms", "trace_directory", "key_directory", "insecure")
_PROFILES = ("layer_profile", "attention_profile")
_OPTIONS: Mapping[str, FieldInfo] = {
    **{name: RouterSettings.model_fields[name] for name in (*_ROUTER, *_SHARED)},
    **{name: AttentionWorkerSettings.model_fields[name] for name in _ATTENTION},
    **dict.fromkeys(_PROFILES, ComputeSettings.model_fields["profile"]),
    **{name: ComputeSettings.model_fields[name] for name in ("time_scale", "threads")},
}


def with_cluster_options(command: Callable[..., None]) -> Callable[..., None]:
    """Decorate a command so that it takes an option per setting, as the keyword arguments it lacks.

    An option that the command declares itself stays as it is.

    What was not typed is None: then environment, settings file and default decide.
    """
    own = Signature.from_callable(command).parameters
    kept = [parameter for parameter in own.values() if parameter.kind is not Parameter.VAR_KEYWORD]
    options = [
        Parameter(name, Parameter.KEYWORD_ONLY, default=None, annotation=_annotation(field))
        for name, field in _OPTIONS.items()
        if name not in own
    ]
    command.__signature__ = Signature([*kept, *options])  # type: ignore[attr-defined]
    return command


def make_plan(options: Mapping[str, Any], *, http_port: int = 0, **more: Any) -> ClusterPlan:
    """Plan a cluster, and check that it can run before anything starts.

    Args:
        options: What `with_cluster_options` gave the command.
        http_port: Of the HTTP API; 0 takes a free one.
        more: Further fields of the plan, or settings of the router.

    Raises:
        GlinthawkError: An option, the model or the port cannot be used.
    """
    given = {name: value for name, value in options.items() if value is not None}
    layer, attention = _emulation(given)
    attention |= {name: given.pop(name) for name in _ATTENTION if name in given}
    threads = given.pop("threads", None)
    bind = given.pop("bind", None)
    reachable = {} if bind is None else {"bind": bind}
    shared = {name: given.pop(name) for name in _SHARED if name in given}
    router = load_settings(RouterSettings, {**given, **shared, **reachable, "http_port": http_port})
    if not router.model:
        message = "no model: give --model DIRECTORY (examples/tiny/model is shipped)"
        raise SettingsError(message)
    load_settings(LayerWorkerSettings, {**layer, "model": router.model})
    load_settings(AttentionWorkerSettings, attention)
    plan = ClusterPlan(
        layer_workers=router.layer_workers,
        attention_workers=router.attention_workers,
        router={**given, "model": router.model},
        layer=layer,
        attention=attention,
        shared=shared,
        threads=threads or router.threads,
        bind=bind,
        http_port=http_port,
        **more,
    )
    check_plan(router)
    return plan


def _emulation(given: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Take what both kinds of workers must know to emulate; the router's part stays."""
    both = {"compute": given.get("compute"), "time_scale": given.pop("time_scale", None)}
    layer, attention = ({**both, "profile": given.pop(name, None)} for name in _PROFILES)
    return layer, attention


def _annotation(field: FieldInfo) -> Any:
    kinds: Mapping[Any, type] = {int: int, int | None: int, bool: bool}
    kind = kinds.get(field.annotation, str)
    about = field.description or ""
    if field.default not in (None, "", False):
        about += f" Default: {field.default}."
    option = typer.Option(help=about, show_default=False)
    return Annotated[kind | None, option]
