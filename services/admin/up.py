"""`glinthawk up`: a cluster on this machine that stays until it is told to stop."""

import sys
import time

from services.admin.local_cluster import ClusterPlan, LocalCluster

_WATCH_INTERVAL_S = 0.5


def up(plan: ClusterPlan) -> None:
    """Keep a local cluster running until Ctrl-C or SIGTERM, which both raise KeyboardInterrupt.

    Raises:
        ClusterFailed: A process cannot be kept alive; everything was stopped.
    """
    try:
        with LocalCluster(plan) as cluster:
            cluster.wait_until_ready().close()
            sys.stderr.write(f"glinthawk serves at {cluster.url}; Ctrl-C stops it\n")
            while True:
                time.sleep(_WATCH_INTERVAL_S)
                for end in cluster.restart_dead():
                    sys.stderr.write(f"{end}; it was started again\n")
    except KeyboardInterrupt:
        sys.stderr.write("stopped\n")
