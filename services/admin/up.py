"""`glinthawk up`: a cluster on this machine that stays until it is told to stop."""

import sys
import threading

from services.admin.local_cluster import ClusterPlan, LocalCluster

_WATCH_INTERVAL_S = 0.5


def up(plan: ClusterPlan, stopped: threading.Event) -> None:
    """Keep a local cluster running until `stopped` is set or a process fails again and again.

    Raises:
        ClusterFailed: A process cannot be kept alive; everything was stopped.
    """
    with LocalCluster(plan) as cluster:
        client = cluster.wait_until_ready()
        client.close()
        sys.stderr.write(f"glinthawk serves at {cluster.url}; Ctrl-C stops it\n")
        while not stopped.wait(_WATCH_INTERVAL_S):
            for name in cluster.restart_dead():
                sys.stderr.write(f"{name} ended and was started again\n")
    sys.stderr.write("stopped\n")
