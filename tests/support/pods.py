"""Pods of the rendered manifests, run by Docker, with a small part of the kubelet played here."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import yaml

from common.wire.keys import create_keys
from tests.support.containers import docker
from tests.support.manifests import KUBERNETES, Object, name, of_kind, pod
from tests.support.processes import ROOT, SHIPPED

NETWORK = "glinthawk-pods"
OWNER = 10001

_SUBNET = "10.77.0"


class Pod:
    """One pod: what its fields are, and the container that it became."""

    def __init__(self, workload: Object, ordinal: int, ip: str) -> None:
        """Resolve what Kubernetes would; nothing runs."""
        self.spec = pod(workload)
        self.service = name(workload)
        self.name = f"{self.service}-{ordinal}"
        self.ip = ip
        [self.container] = self.spec["containers"]
        self._fields = {
            "metadata.name": self.name,
            "spec.nodeName": "node",
            "status.podIP": ip,
            "metadata.labels['apps.kubernetes.io/pod-index']": str(ordinal),
        }

    def run(self, mounts: list[str]) -> None:
        """Start its container, as restricted as the manifest says."""
        context, security = self.container["securityContext"], self.spec["securityContext"]
        limits = self.container["resources"]["limits"]
        words = [
            *("run", "--detach", "--name", self.name, "--hostname", self.name),
            *("--network", NETWORK, "--ip", self.ip, "--network-alias", self.service),
            *("--user", f"{security['runAsUser']}:{security['runAsGroup']}"),
            *("--group-add", security["fsGroup"]),
            *("--cpus", limits["cpu"], "--memory", limits["memory"].removesuffix("i")),
            *(f"--cap-drop={each}" for each in context["capabilities"]["drop"]),
            *(f"--env={key}={value}" for key, value in self._environment().items()),
            *mounts,
        ]
        if context["readOnlyRootFilesystem"]:
            words.append("--read-only")
        if not context["allowPrivilegeEscalation"]:
            words.append("--security-opt=no-new-privileges")
        docker(*words, self.container["image"])

    def passes(self, probe: str) -> bool:
        """Ask a probe, as it is written."""
        asked = self.container[probe]["httpGet"]
        try:
            return httpx.get(f"{self.url(asked['port'])}{asked['path']}").is_success
        except httpx.TransportError:
            return False

    def url(self, port: str) -> str:
        """Give the address of a named port."""
        [number] = [
            each["containerPort"] for each in self.container["ports"] if each["name"] == port
        ]
        return f"http://{self.ip}:{number}"

    def end(self) -> int:
        """Ask it to end, and give it its grace; give its exit code."""
        docker("stop", "--time", self.spec["terminationGracePeriodSeconds"], self.name)
        return int(docker("inspect", "--format", "{{.State.ExitCode}}", self.name))

    def _environment(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for each in self.container["env"]:
            field = each.get("valueFrom", {}).get("fieldRef", {}).get("fieldPath")
            value = self._fields[field] if field else each["value"]
            found[each["name"]] = re.sub(r"\$\((\w+)\)", lambda match: found[match[1]], value)
        return found


class Node:
    """A machine that runs pods: their network, and what is behind their volumes."""

    def __init__(self, overlay: str, folder: Path) -> None:
        """Make what the manifests take for granted: secrets, and volumes for the claims."""
        self._overlay = overlay
        self._folder = folder
        self._pods: list[Pod] = []
        create_keys(folder / "files")
        words = ("keys", "api-key", folder / "files/api-keys", "--name", "test", "--scope", "admin")
        made = subprocess.run(
            [sys.executable, "-m", "services.admin", *words],
            cwd=ROOT,
            check=True,
            capture_output=True,
            text=True,
        )
        self.api_key = made.stdout.split()[0]
        self._claims = {"model": SHIPPED, "router-data": folder / "data"}
        (folder / "data").mkdir()
        os.chown(folder / "data", OWNER, OWNER)
        docker("network", "create", f"--subnet={_SUBNET}.0/24", NETWORK)

    def start(self, workload: Object) -> list[Pod]:
        """Run all pods of a workload."""
        pods = []
        for ordinal in range(workload["spec"]["replicas"]):
            started = Pod(workload, ordinal, f"{_SUBNET}.{10 + len(self._pods)}")
            self._pods.append(started)
            started.run([self._mount(started, volume) for volume in started.spec["volumes"]])
            pods.append(started)
        return pods

    def clear(self) -> None:
        """Remove every pod and the network."""
        for each in self._pods:
            subprocess.run(["docker", "rm", "--force", each.name], capture_output=True)
        docker("network", "rm", NETWORK)

    def _mount(self, owner: Pod, volume: Object) -> str:
        mounts = owner.container["volumeMounts"]
        [path] = [each["mountPath"] for each in mounts if each["name"] == volume["name"]]
        if "emptyDir" in volume:
            return f"--tmpfs={path}"
        if "persistentVolumeClaim" in volume:
            claim = volume["persistentVolumeClaim"]
            mode = "ro" if claim.get("readOnly") else "rw"
            return f"--volume={self._claims[claim['claimName']]}:{path}:{mode}"
        folder = self._folder / f"{owner.name}-{volume['name']}"
        folder.mkdir()
        for file, content in self._files(volume).items():
            (folder / file).write_bytes(content)
            (folder / file).chmod(0o440)
            os.chown(folder / file, 0, owner.spec["securityContext"]["fsGroup"])
        return f"--volume={folder}:{path}:ro"

    def _files(self, volume: Object) -> dict[str, bytes]:
        if "configMap" in volume:
            [settings] = of_kind(self._overlay, "ConfigMap")
            return {file: text.encode() for file, text in settings["data"].items()}
        if "secret" in volume:
            return self._secret(volume["secret"]["secretName"])
        secrets = [source["secret"]["name"] for source in volume["projected"]["sources"]]
        return {file: text for secret in secrets for file, text in self._secret(secret).items()}

    def _secret(self, wanted: str) -> dict[str, bytes]:
        made: dict[str, Any] = yaml.safe_load((KUBERNETES / "keys/kustomization.yaml").read_text())
        [files] = [each["files"] for each in made["secretGenerator"] if each["name"] == wanted]
        return {Path(file).name: (self._folder / file).read_bytes() for file in files}
