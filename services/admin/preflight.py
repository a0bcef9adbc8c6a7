"""What can be refused before any process starts."""

from common.checkpoint_header import check_checkpoint
from common.model_spec import read_model_spec, resolve_model
from services.router.config import RouterSettings


def check_plan(settings: RouterSettings) -> None:
    """See that a router could start here: checkpoint, cluster shape, lengths and port.

    Raises:
        GlinthawkError: It could not; nothing was started.
    """
    # They bring FastAPI along, which only the commands that start a cluster need.
    from services.router.http.server import listen
    from services.router.service import cluster_shape, served_model

    directory = resolve_model(settings.model)
    spec = read_model_spec(directory)
    if settings.compute == "real":
        check_checkpoint(directory, spec)
    cluster_shape(settings, spec, directory)
    served_model(settings, spec, directory)
    listen(settings.http_host, settings.http_port).close()
