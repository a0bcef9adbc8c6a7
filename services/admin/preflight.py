"""What can be refused before any process starts."""

from common.checkpoint_header import check_checkpoint
from common.model_spec import read_model_spec, resolve_model


def check_model(path_or_hub_id: str) -> None:
    """See that a checkpoint is whole and of a kind that is served.

    Raises:
        ModelRefused: It is not; nothing was started.
    """
    directory = resolve_model(path_or_hub_id)
    check_checkpoint(directory, read_model_spec(directory))
