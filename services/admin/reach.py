"""Reach a cluster: one that runs already, or one that is started on this machine for a command."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from services.admin.client import RouterClient
from services.admin.local_cluster import ClusterPlan, LocalCluster


@contextmanager
def reach(cluster: ClusterPlan | str, say: Callable[[str], None]) -> Iterator[RouterClient]:
    """Give a client of a cluster that can serve; what was started for it is stopped afterwards.

    Args:
        cluster: What to start on this machine, or the URL of a router.
        say: Is told what takes time.

    Raises:
        GlinthawkError: The cluster does not start, or there is none.
    """
    with ExitStack() as stack:
        if isinstance(cluster, ClusterPlan):
            say("starting a cluster on this machine")
            client = stack.enter_context(LocalCluster(cluster)).wait_until_ready()
        else:
            client = RouterClient(cluster)
        stack.callback(client.close)
        yield client
