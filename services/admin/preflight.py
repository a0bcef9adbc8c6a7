"""What can be refused before any process starts."""

from common.checkpoint_header import check_checkpoint
from common.model_spec import read_model_spec, resolve_model
from common.runtime.security import open_locksmith
from common.wire.addresses import demand_bindable
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
    demand_bindable(settings.bind, guarded=open_locksmith(settings).guarded)
    listen(settings).close()
