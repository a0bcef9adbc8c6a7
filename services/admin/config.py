"""What every service would be told: settings with their origin, for `glinthawk config show`."""

import json
from pathlib import Path
from typing import Any, TextIO

from pydantic import Field, create_model
from rich.console import Console
from rich.table import Table

from common.config import ServiceSettings, Setting, describe, load_settings


def gather(config_file: Path | None) -> list[Setting]:
    """List the settings of all services, as they are in this environment.

    Raises:
        SettingsError: One is unknown or has a value that cannot be used.
    """
    settings = (load_settings(_lenient(kind), {}, config_file) for kind in _kinds())
    return [setting for each in settings for setting in describe(each)]


def _lenient(kind: type[ServiceSettings]) -> type[ServiceSettings]:
    """Let settings that must be given somewhere be missing, and show as empty."""
    required: dict[str, Any] = {
        name: (field.annotation, Field(default="", description=field.description))
        for name, field in kind.model_fields.items()
        if field.is_required()
    }
    return create_model(kind.__name__, __base__=kind, **required)


def _kinds() -> tuple[type[ServiceSettings], ...]:
    from services.admin.access import AdminSettings
    from services.attention_worker.config import AttentionWorkerSettings
    from services.kv_manager.config import KvManagerSettings
    from services.layer_worker.config import LayerWorkerSettings
    from services.router.config import RouterSettings

    return (
        RouterSettings,
        LayerWorkerSettings,
        AttentionWorkerSettings,
        KvManagerSettings,
        AdminSettings,
    )


def show(settings: list[Setting], out: TextIO, *, as_json: bool) -> None:
    """Write settings as a table, or as JSON for a script."""
    if as_json:
        rows: dict[str, Any] = {
            setting.name: {"value": setting.value, "origin": setting.origin} for setting in settings
        }
        out.write(json.dumps(rows, indent=2, default=str) + "\n")
        return
    table = Table("setting", "value", "from", "about", box=None)
    for setting in settings:
        table.add_row(setting.name, str(setting.value), setting.origin, setting.about)
    Console(file=out).print(table)
