"""What a layer worker can be told: the model, and what to compute on."""

from typing import ClassVar, Literal

from common.config import ComputeSettings


class LayerWorkerSettings(ComputeSettings):
    """A layer worker's settings; its layers and its dtype come from the router."""

    section: ClassVar[str] = "layer_worker"

    model: str
    """Directory of a Hugging Face checkpoint, or a hub id; the router's."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute; `auto` takes a GPU if there is one."""
