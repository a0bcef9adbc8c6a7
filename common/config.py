"""Where settings come from: command line, then environment, then YAML file, then default.

Each service declares one typed class of its own (`section` names its part of the file and of the
environment); what all services share is declared here. A setting that nobody declared stops the
process, with the nearest name that exists.
"""

import os
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

import yaml
from pydantic import Field, PrivateAttr, ValidationError, model_validator
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)
from pydantic_settings import SettingsError as SourceError

from common.errors import SettingsError
from common.ids import Endpoint, WorkerId

PREFIX = "GLINTHAWK_"
"""Every environment variable of this project begins with it."""

SECTIONS = ("common", "router", "layer_worker", "attention_worker", "kv_manager", "admin")
"""The parts that a settings file may have; `common` holds what all services share."""

MAX_DRAIN_S = 7 * 24 * 3600.0
"""Nobody waits longer than a week for a worker to leave."""

Address = Annotated[Endpoint, Field(pattern=r"^(tcp://\S+:(\d+|\*)|ipc://\S+)$")]
"""An endpoint as a user writes it: `tcp://host:port` (port `*` takes a free one) or `ipc://path`."""


class ServiceSettings(BaseSettings):
    """What every service can be told; each service adds its own."""

    model_config = SettingsConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
    section: ClassVar[str] = "common"
    _origins: dict[str, str] = PrivateAttr(default_factory=dict)

    router_endpoint: Address = Endpoint("tcp://127.0.0.1:7400")
    """Where workers find the router."""
    bind: Address = Endpoint("tcp://127.0.0.1:*")
    """Where this process listens for its peers."""
    advertise: Address | None = None
    """The address told to peers, where it is not the bound one; port `*` stands for the bound port."""
    worker_id: WorkerId | None = None
    """This process's own name; by default its host, role, and ordinal or process id."""
    ordinal: int | None = Field(default=None, ge=0)
    """Preferred place among the workers of its role."""
    host: str = Field(default_factory=socket.gethostname)
    """Name of the machine; workers with equal hosts share its cores."""
    key_directory: Path | None = None
    """Folder of keys that encrypt all links over tcp; `glinthawk keys create` makes one."""
    insecure: bool = False
    """Talk in the clear to other machines, too: anyone in the network can read and command."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """The least important log lines to write."""
    log_format: Literal["auto", "json", "console"] = "auto"
    """How log lines look; `auto` is JSON unless a person watches."""
    register_interval_s: float = Field(default=1.0, gt=0)
    """Seconds until a worker that got no answer registers again."""
    router_silence_s: float = Field(default=3.0, gt=0)
    """Seconds without a word of the router after which a worker registers again."""
    stop_timeout_s: float = Field(default=10.0, ge=0, le=MAX_DRAIN_S)
    """Seconds that a process asked to end may take. Workers finish what they have in the first four
    fifths of it; then it is handed back, to be computed elsewhere."""
    threads: int | None = Field(default=None, ge=1)
    """Threads that the engine computes with; by default one per core."""
    die_with_parent: bool = False
    """End when the process that started this one ends."""
    link_delay_ms: float = Field(default=0, ge=0)
    """Milliseconds that every message waits before it is sent, as if peers were far away."""
    link_mbit_per_s: float | None = Field(default=None, gt=0)
    """Megabits per second that this process sends, as if its network were as slow."""
    metrics_port: int | None = Field(default=None, ge=0, le=65535)
    """Port of this process's `/metrics`, `/livez` and `/readyz`; without it, the router alone has them,
    in its HTTP API."""
    metrics_host: str = "127.0.0.1"
    """Interface of the metrics port; whoever reaches it may read."""
    trace_directory: Path | None = None
    """Folder where every process writes, when it ends, what it did and when; for `glinthawk trace`."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take only what the constructor is given: `load_settings` gathers and ranks the sources."""
        return (init_settings,)


class ComputeSettings(ServiceSettings):
    """What the workers that compute can be told, too."""

    compute: Literal["real", "emulated"] = "real"
    """`emulated` lets time pass as in `profile` and computes nothing: for trying out clusters."""
    profile: Path | None = None
    """File with a node's stage times, for emulated computing."""
    time_scale: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    """What the profile's times are multiplied by; 0 lets no time pass."""

    @model_validator(mode="after")
    def _check_profile(self) -> Self:
        if self.compute == "emulated" and self.profile is None:
            raise ValueError("emulated computing needs a profile: give a node's stage times")
        return self


S = TypeVar("S", bound=ServiceSettings)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One setting as a user wants to see it: its value, and who decided it."""

    name: str
    value: Any
    origin: str
    """A variable, a flag, a place in a file, or `default`."""
    about: str


@dataclass(frozen=True, slots=True)
class _Given:
    """A value before it was checked, and where it was written."""

    value: Any
    origin: str


def load_settings(cls: type[S], overrides: Mapping[str, Any], config_file: Path | None = None) -> S:
    """Gather a service's settings from all sources.

    Args:
        cls: The service's settings.
        overrides: From the command line, by field name; None means that the flag was not given.
        config_file: Defaults to the environment's `GLINTHAWK_CONFIG`, or none.

    Raises:
        SettingsError: A setting is unknown, missing or has a value that cannot be used.
    """
    given = {
        **_from_file(cls, config_file or _environment_file()),
        **_from_environment(cls),
        **_from_overrides(cls, overrides),
    }
    try:
        settings = cls(**{name: source.value for name, source in given.items()})
    except ValidationError as error:
        reasons = [_explain(cls, details, given) for details in error.errors()]
        raise SettingsError("; ".join(reasons)) from None
    settings._origins.update({name: source.origin for name, source in given.items()})
    return settings


def describe(settings: ServiceSettings) -> list[Setting]:
    """List every setting with its value and origin, in the order of declaration."""
    return [
        Setting(
            name=f"{settings.section}.{name}",
            value=getattr(settings, name),
            origin=settings._origins.get(name, "default"),
            about=field.description or "",
        )
        for name, field in type(settings).model_fields.items()
    ]


def _environment_file() -> Path | None:
    path = os.environ.get(f"{PREFIX}CONFIG")
    return Path(path) if path else None


def _from_file(cls: type[ServiceSettings], path: Path | None) -> dict[str, _Given]:
    if path is None:
        return {}
    sections = _read_sections(path)
    _refuse_unknown(sections, SECTIONS, where=f" in {path}")
    given: dict[str, _Given] = {}
    for section, fields in (
        ("common", ServiceSettings.model_fields),
        (cls.section, cls.model_fields),
    ):
        values = sections.get(section) or {}
        if not isinstance(values, dict):
            raise SettingsError(f"{path}: {section} must be a mapping of settings to values")
        _refuse_unknown(values, fields, where=f" in section {section} of {path}")
        given |= {
            name: _Given(value, f"{section}.{name} in {path}") for name, value in values.items()
        }
    return given


def _read_sections(path: Path) -> dict[Any, Any]:
    try:
        sections = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"cannot read the settings file {path}: {error}") from None
    except yaml.YAMLError as error:
        raise SettingsError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if sections is None:
        return {}
    if not isinstance(sections, dict):
        raise SettingsError(f"{path} must map sections ({', '.join(SECTIONS)}) to settings")
    return sections


def _from_environment(cls: type[ServiceSettings]) -> dict[str, _Given]:
    own_prefix = f"{PREFIX}{cls.section.upper()}__"
    _refuse_unknown_variables(cls, own_prefix)
    given: dict[str, _Given] = {}
    for fields_of, prefix in ((ServiceSettings, PREFIX), (cls, own_prefix)):
        try:
            values = EnvSettingsSource(fields_of, env_prefix=prefix, env_ignore_empty=True)()
        except SourceError as error:
            raise SettingsError(f"{prefix}…: {error}") from None
        given |= {name: _Given(value, prefix + name.upper()) for name, value in values.items()}
    return given


def _refuse_unknown_variables(cls: type[ServiceSettings], own_prefix: str) -> None:
    names = [name.upper() for name in os.environ if name.upper().startswith(PREFIX)]
    own = [f"{own_prefix}{field.upper()}" for field in cls.model_fields]
    shared = [f"{PREFIX}{field.upper()}" for field in (*ServiceSettings.model_fields, "config")]
    others = tuple(f"{PREFIX}{section.upper()}__" for section in SECTIONS if section != cls.section)
    checked = [name for name in names if not name.startswith(others)]
    _refuse_unknown(checked, [*own, *shared], where=" in the environment")


def _from_overrides(cls: type[ServiceSettings], overrides: Mapping[str, Any]) -> dict[str, _Given]:
    given = {name: value for name, value in overrides.items() if value is not None}
    _refuse_unknown(given, cls.model_fields, where=" on the command line")
    return {name: _Given(value, _flag(name)) for name, value in given.items()}


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _refuse_unknown(names: Iterable[Any], known: Iterable[str], *, where: str) -> None:
    known = list(known)
    for name in names:
        if name not in known:
            close = get_close_matches(str(name), known, n=1)
            hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(sorted(known))}"
            raise SettingsError(f"unknown setting {name}{where}; {hint}")


def _explain(cls: type[ServiceSettings], error: ErrorDetails, given: Mapping[str, _Given]) -> str:
    if not error["loc"]:
        return f"{cls.section}: {error['msg'].removeprefix('Value error, ')}"
    name = str(error["loc"][0])
    if error["type"] == "missing":
        variable = f"{PREFIX}{cls.section.upper()}__{name.upper()}"
        return (
            f"{name} is missing; give {_flag(name)}, {variable} or {cls.section}.{name} in the file"
        )
    origin = given[name].origin if name in given else "default"
    problem = error["msg"].removeprefix("Value error, ")
    return f"{origin}: {problem}, not {error['input']!r}"
