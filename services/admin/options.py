"""The options of a cluster on this machine; the settings of its services declare them, once."""

from collections.abc import Callable, Mapping
from inspect import Parameter, Signature
from typing import Annotated, Any

import typer
from pydantic.fields import FieldInfo

from common.config import ComputeSettings, load_settings
from common.errors import SettingsError
from common.model_spec import read_model_spec, resolve_model
from services.admin.device_split import split
from services.admin.local_cluster import ClusterPlan, Devices
from services.admin.preflight import check_plan
from services.attention_worker.config import AttentionWorkerSettings
from services.layer_worker.config import LayerWorkerSettings
from services.router.config import RouterSettings

_ROUTER = (
    "model",
    "layer_workers",
    "layer_counts",
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
    "layer_worker_price",
    "attention_worker_price",
)
_ATTENTION = ("kv_memory",)
_SHARED = ("link_delay_ms", "link_mbit_per_s", "trace_directory", "key_directory", "insecure")
_PROFILES = ("layer_profile", "attention_profile")
_DEVICES = FieldInfo(
    annotation=str | None,
    default=None,
    description="One layer worker for each of these, with layers by its measured speed and memory: "
    "`all` GPUs, or names such as `cuda:0,cuda:2`.",
)
_DEVICE_KV_MEMORY = FieldInfo(
    annotation=str | None,
    default=None,
    description="Memory of each of `--devices` for keys and values, such as `8GiB`: an attention "
    "worker beside the layer worker.",
)
_OPTIONS: Mapping[str, FieldInfo] = {
    **{name: RouterSettings.model_fields[name] for name in (*_ROUTER, *_SHARED)},
    **{name: AttentionWorkerSettings.model_fields[name] for name in _ATTENTION},
    **dict.fromkeys(_PROFILES, ComputeSettings.model_fields["profile"]),
    **{name: ComputeSettings.model_fields[name] for name in ("time_scale", "threads")},
    "devices": _DEVICES,
    "device_kv_memory": _DEVICE_KV_MEMORY,
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
    devices, given = _split(given)
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
        devices=devices,
        shared=shared,
        threads=threads or router.threads,
        bind=bind,
        http_port=http_port,
        **more,
    )
    check_plan(router)
    return plan


def _split(given: dict[str, Any]) -> tuple[Devices, dict[str, Any]]:
    """Share the layers out among devices, if there are to be some."""
    wanted, kv_memory = given.pop("devices", None), given.pop("device_kv_memory", None)
    if wanted is None:
        if kv_memory is not None:
            message = "--device-kv-memory is for --devices: give both, or --kv-memory"
            raise SettingsError(message)
        return Devices(), given
    settings = load_settings(RouterSettings, given)
    directory = resolve_model(settings.model)
    kv = load_settings(AttentionWorkerSettings, {"kv_memory": kv_memory}) if kv_memory else None
    kv_bytes = kv.kv_memory if kv is not None and isinstance(kv.kv_memory, int) else 0
    names, counts = split(wanted, settings, directory, read_model_spec(directory), kv_bytes)
    cut = {"layer_workers": len(names), "layer_counts": ",".join(map(str, counts))}
    return Devices(names=names, kv_bytes=kv_bytes), {**given, **cut}


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
