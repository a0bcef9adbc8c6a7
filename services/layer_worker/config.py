"""What a layer worker can be told: the model, and what to compute on."""

from typing import Annotated, ClassVar

from pydantic import Field

from common.config import ComputeSettings

DeviceName = Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")]
"""A processor or a GPU: `auto`, `cpu`, `cuda` or `cuda:` and a number."""


class LayerWorkerSettings(ComputeSettings):
    """A layer worker's settings; its layers and its dtype come from the router."""

    section: ClassVar[str] = "layer_worker"

    model: str
    """Directory of a Hugging Face checkpoint, or a hub id; the router's."""
    device: DeviceName = "auto"
    """Where to compute: `cpu`, `cuda`, `cuda:1`; `auto` takes a GPU if there is one."""
