"""A cluster that does not exist, in a YAML file: to be simulated, or emulated by real processes."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

from pydantic import Field

from services.admin.planner.files import Part, read_file
from services.admin.planner.hardware import KvDtype, Links, Machine
from services.admin.planner.models import MODELS

_MAX_MODEL_LEN = 131072


class Tier(Machine):
    """The nodes of one tier."""

    nodes: Annotated[int, Field(ge=1)]


class ClusterFile(Part):
    """A cluster."""

    model: str
    """A name that the planner knows, or a checkpoint's directory; weights need not be there."""
    tier1: Tier
    tier2: Tier
    network: Links
    kv_dtype: KvDtype = "bf16"
    router: Mapping[str, Any] = Field(default_factory=dict)
    """Further settings of the router, such as `in_flight` and `max_num_seqs`."""
    router_profile: Path | None = None
    """A measured profile of the router; without one it takes no time."""
    jitter: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Deviation of the logarithm of each duration; only when simulated."""
    time_scale: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    """What durations are multiplied by; only when emulated."""

    @contextmanager
    def model_directory(self) -> Iterator[Path]:
        """Give the model's directory; that of a model known by name lasts as long as the context."""
        if self.model not in MODELS:
            yield Path(self.model).expanduser()
            return
        with TemporaryDirectory(prefix="glinthawk-model-") as name:
            config = MODELS[self.model].config(_MAX_MODEL_LEN)
            (Path(name) / "config.json").write_text(json.dumps(config))
            yield Path(name)

    def router_settings(self, directory: Path) -> dict[str, Any]:
        """Give the router's settings, by name."""
        return {
            "max_num_batched_tokens": 4096,
            **self.router,
            "model": str(directory),
            "compute": "emulated",
            "layer_workers": self.tier1.nodes,
            "attention_workers": self.tier2.nodes,
            "kv_cache_dtype": self.kv_dtype,
        }


def read_cluster(path: Path) -> ClusterFile:
    """Read a cluster.

    Raises:
        SettingsError: There is none, or it is not of this form; names what is wrong.
    """
    return read_file(path, ClusterFile, "a cluster")
