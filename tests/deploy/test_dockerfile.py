"""What the Dockerfile and the compose file say, before anything is built."""

import json
import re
import subprocess
import sys
from pathlib import Path

import yaml

from common.config import ServiceSettings

ROOT = Path(__file__).parents[2]
HADOLINT = Path(sys.executable).with_name("hadolint")
SERVICES = {"router", "kv-manager", "layer-worker", "attention-worker"}


def test_the_dockerfile_has_nothing_to_complain_about() -> None:
    done = subprocess.run([HADOLINT, ROOT / "Dockerfile"], capture_output=True, text=True)

    assert (done.returncode, done.stdout) == (0, "")


def test_no_shell_is_between_docker_and_a_process() -> None:
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")

    commands = re.findall(r"^\s*(?:ENTRYPOINT|CMD|HEALTHCHECK .*?CMD)\s+(.*)$", text, re.MULTILINE)

    assert len(commands) > len(SERVICES)
    assert all(json.loads(command)[0] == "python" for command in commands)


def test_whatever_is_installed_has_a_version() -> None:
    lines = (ROOT / "deploy/docker/constraints.txt").read_text().split()

    assert [line for line in lines if not re.fullmatch(r"[\w.-]+==[\w.]+", line)] == []


def test_every_service_has_limits_and_an_end() -> None:
    services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]

    for name in SERVICES:
        service = services[name]
        assert {"mem_limit", "read_only", "cap_drop"} <= service.keys()
        grace_s = float(service["stop_grace_period"].removesuffix("s"))
        assert grace_s > ServiceSettings.model_fields["stop_timeout_s"].default
