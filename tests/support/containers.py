"""The images and the compose file as they are, driven through Docker's own command line."""

import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.processes import ROOT

SERVICES = ("router", "kv-manager", "layer-worker", "attention-worker")
TARGETS = (*SERVICES, "admin")
BASE = "python:3.11-slim"
URL = "http://127.0.0.1:8000"

_POLL_S = 0.2


def docker(*words: object, timeout_s: float = 300) -> str:
    """Run a command of Docker's; give what it wrote."""
    done = subprocess.run(
        ["docker", *map(str, words)], cwd=ROOT, capture_output=True, text=True, timeout=timeout_s
    )
    assert done.returncode == 0, f"docker {words}: {done.stderr[-3000:]}"
    return done.stdout.strip()


def build(target: str) -> None:
    """Build the image of a target, as the compose file names it."""
    # The network of the machine: an engine need not have a bridge.
    words = ("build", "--quiet", "--network", "host", "--target", target)
    docker(*words, "--tag", f"glinthawk-{target}", ".", timeout_s=900)


def image(name: str) -> dict[str, Any]:
    """Tell what Docker knows about an image."""
    facts: dict[str, Any] = json.loads(docker("image", "inspect", name))[0]
    return facts


class Compose:
    """The cluster of `compose.yaml`, with settings of a test as an override."""

    def __init__(self, override: Path) -> None:
        """Name the files; nothing is started."""
        self._words = ("compose", "--project-name", "glinthawk-test")
        self._words = (*self._words, "--file", "compose.yaml", "--file", str(override))

    def __call__(self, *words: object, timeout_s: float = 300) -> str:
        """Run a compose command."""
        return docker(*self._words, *words, timeout_s=timeout_s)

    def up(self, *words: object) -> float:
        """Start what is not up, and wait until all of it is healthy; give the seconds that took."""
        started_s = time.monotonic()
        self("up", "--detach", "--wait", "--no-build", *words)
        return time.monotonic() - started_s

    def scale(self, **services: int) -> None:
        """Change the number of a service's containers."""
        words = [f"--scale={name.replace('_', '-')}={number}" for name, number in services.items()]
        self.up("--no-recreate", *words)

    def containers(self, service: str) -> list[dict[str, Any]]:
        """Tell what Docker knows about the running containers of a service."""
        names = self("ps", "--quiet", service).split()
        return json.loads(docker("inspect", *names)) if names else []

    def kill_one(self, service: str) -> None:
        """Send SIGKILL to a container's process, as the kernel would without memory."""
        os.kill(self.containers(service)[0]["State"]["Pid"], 9)

    def settled(self, service: str) -> bool:
        """Tell whether all containers of a service are healthy."""
        states = [each["State"] for each in self.containers(service)]
        return bool(states) and all(each["Health"]["Status"] == "healthy" for each in states)


def eventually(condition: Callable[[], object], timeout_s: float) -> None:
    """Wait for containers to bring something about."""
    give_up_at = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < give_up_at, "it did not come about"
        time.sleep(_POLL_S)
