"""What Kubernetes would be told: every overlay renders, fits the schemas, and keeps our rules.

Needs `kubectl` for rendering; nothing is sent to a cluster.
"""

import shutil

import pytest
import yaml
from kubernetes_validate import validate

from tests.support.manifests import (
    KUBERNETES,
    OVERLAYS,
    matches,
    name,
    of_kind,
    pod,
    rendered,
    workloads,
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed"),
]

MINORS = ("1.35", "1.36", "1.37")
SERVICES = {"router", "kv-manager", "layer-worker", "attention-worker"}

each_overlay = pytest.mark.parametrize("overlay", OVERLAYS)


@each_overlay
@pytest.mark.parametrize("minor", MINORS)
def test_every_object_fits_the_strict_schema(overlay, minor):
    for each in rendered(overlay):
        validate(each, minor, strict=True)


@each_overlay
def test_there_is_one_workload_per_service(overlay):
    assert {name(each) for each in workloads(overlay)} == SERVICES


@each_overlay
def test_every_container_has_three_probes(overlay):
    for workload in workloads(overlay):
        for container in pod(workload)["containers"]:
            assert {"startupProbe", "readinessProbe", "livenessProbe"} <= container.keys()


@each_overlay
def test_every_container_has_requests_and_limits(overlay):
    for workload in workloads(overlay):
        for container in pod(workload)["containers"]:
            for kind in ("requests", "limits"):
                assert {"cpu", "memory"} <= container["resources"][kind].keys()


@each_overlay
def test_attention_workers_are_guaranteed_whole_cores(overlay):
    [worker] = [each for each in workloads(overlay) if name(each) == "attention-worker"]

    [container] = pod(worker)["containers"]

    assert container["resources"]["requests"] == container["resources"]["limits"]
    assert container["resources"]["limits"]["cpu"].isdigit()


@each_overlay
def test_no_container_is_more_than_it_must_be(overlay):
    for workload in workloads(overlay):
        assert pod(workload)["securityContext"]["runAsNonRoot"]
        assert pod(workload)["automountServiceAccountToken"] is False
        assert pod(workload)["enableServiceLinks"] is False
        for container in pod(workload)["containers"]:
            context = container["securityContext"]
            assert context["readOnlyRootFilesystem"]
            assert not context["allowPrivilegeEscalation"]
            assert context["capabilities"]["drop"] == ["ALL"]


@each_overlay
def test_a_pod_sees_the_secret_of_its_own_role_alone(overlay):
    for workload in workloads(overlay):
        [keys] = [each for each in pod(workload)["volumes"] if each["name"] == "keys"]
        names = {source["secret"]["name"] for source in keys["projected"]["sources"]}
        assert names == {"keys-public", f"keys-{name(workload)}"}


@each_overlay
@pytest.mark.parametrize("kind", ["PodDisruptionBudget", "NetworkPolicy"])
def test_every_workload_is_selected_by(overlay, kind):
    field = {"PodDisruptionBudget": "selector", "NetworkPolicy": "podSelector"}[kind]
    selectors = [each["spec"][field] for each in of_kind(overlay, kind)]
    own = [
        each for each in selectors if "app.kubernetes.io/component" in each.get("matchLabels", {})
    ]

    for workload in workloads(overlay):
        assert any(matches(selector, workload) for selector in own), name(workload)


@each_overlay
def test_whoever_is_not_named_is_denied(overlay):
    [policy] = [each for each in of_kind(overlay, "NetworkPolicy") if name(each) == "default-deny"]

    assert set(policy["spec"]["policyTypes"]) == {"Ingress", "Egress"}
    assert not policy["spec"].keys() & {"ingress", "egress"}


@each_overlay
def test_a_pod_may_take_longer_to_end_than_its_service(overlay):
    [settings] = of_kind(overlay, "ConfigMap")
    stop_timeout_s = yaml.safe_load(settings["data"]["settings.yaml"])["common"]["stop_timeout_s"]

    for workload in of_kind(overlay, "StatefulSet"):
        assert pod(workload)["terminationGracePeriodSeconds"] > stop_timeout_s


def test_singles_are_replaced_not_doubled():
    for workload in of_kind("cpu", "Deployment"):
        assert workload["spec"]["strategy"]["type"] == "Recreate"


def test_settings_are_those_that_the_services_know():
    from common.config import load_settings
    from services.attention_worker.config import AttentionWorkerSettings
    from services.kv_manager.config import KvManagerSettings
    from services.layer_worker.config import LayerWorkerSettings
    from services.router.config import RouterSettings

    file = KUBERNETES / "base" / "settings.yaml"

    for settings in (
        AttentionWorkerSettings,
        KvManagerSettings,
        LayerWorkerSettings,
        RouterSettings,
    ):
        load_settings(settings, {}, file)


def test_tier_2_grows_with_the_need_for_kv_memory():
    [scaler] = of_kind("cpu", "HorizontalPodAutoscaler")

    assert scaler["spec"]["scaleTargetRef"]["name"] == "attention-worker"
    assert len(scaler["spec"]["metrics"]) == 2


def test_a_gpu_overlay_asks_for_gpus():
    [worker] = [each for each in workloads("gpu") if name(each) == "layer-worker"]

    [container] = pod(worker)["containers"]

    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
