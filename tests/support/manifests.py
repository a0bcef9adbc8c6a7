"""What Kubernetes would be told, rendered by `kubectl`; nothing is sent to a cluster."""

import subprocess
from functools import cache
from typing import Any

import yaml

from tests.support.processes import ROOT

KUBERNETES = ROOT / "deploy/kubernetes"
OVERLAYS = ("cpu", "gpu", "local")

Object = dict[str, Any]


@cache
def rendered(overlay: str) -> list[Object]:
    """Give all objects of an overlay; a warning is a failure."""
    run = subprocess.run(
        ["kubectl", "kustomize", KUBERNETES / "overlays" / overlay],
        check=True,
        capture_output=True,
        text=True,
    )
    assert not run.stderr
    return [each for each in yaml.safe_load_all(run.stdout) if each]


def of_kind(overlay: str, *kinds: str) -> list[Object]:
    """Give the objects of some kinds."""
    return [each for each in rendered(overlay) if each["kind"] in kinds]


def workloads(overlay: str) -> list[Object]:
    """Give what has pods."""
    return of_kind(overlay, "Deployment", "StatefulSet")


def name(each: Object) -> str:
    """Give an object's name."""
    return str(each["metadata"]["name"])


def pod(workload: Object) -> Object:
    """Give the specification of a workload's pods."""
    spec: Object = workload["spec"]["template"]["spec"]
    return spec


def matches(selector: Object, workload: Object) -> bool:
    """Tell whether a selector selects a workload's pods."""
    labels = workload["spec"]["template"]["metadata"]["labels"]
    return bool(selector["matchLabels"].items() <= labels.items())
