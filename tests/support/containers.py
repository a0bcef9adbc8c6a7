"""The images and the compose file as they are, driven through Docker's own command line."""

import json
import os
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.processes import ROOT

SERVICES = ("router", "kv-manager", "layer-worker", "attention-worker")
TARGETS = (*SERVICES, "admin")
BASE = "python:3.11-slim"

_POLL_S = 0.2


def docker(*words: object, timeout_s: float = 300, **variables: str) -> str:
    """Run a command of Docker's with further environment variables; give what it wrote."""
    done = subprocess.run(
        ["docker", *map(str, words)],
        cwd=ROOT,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=timeout_s,
    )
    assert done.returncode == 0, f"docker {words}: {done.stderr[-3000:]}"
    return done.stdout.strip()


def build() -> None:
    """Build all images that need no GPU, as a user does."""
    docker("compose", "--profile", "tools", "build", "--quiet", timeout_s=1200)


def image(name: str) -> dict[str, Any]:
    """Tell what Docker knows about an image."""
    facts: dict[str, Any] = json.loads(docker("image", "inspect", name))[0]
    return facts


class Compose:
    """The cluster of `compose.yaml`, with settings of a test as an override."""

    def __init__(self, override: Path) -> None:
        """Name the files; nothing is started."""
        files = ("--file", "compose.yaml", "--file", str(override))
        self._words = ("compose", "--project-name", "glinthawk-test", *files)
        self._variables = {"PORT": str(_free_port())}
        self.url = f"http://127.0.0.1:{self._variables['PORT']}"

    def __call__(self, *words: object, timeout_s: float = 300) -> str:
        """Run a compose command."""
        return docker(*self._words, *words, timeout_s=timeout_s, **self._variables)

    def up(self, *words: object, **variables: int) -> float:
        """Start what is not up, and wait until all of it is healthy; give the seconds that took.

        Args:
            words: Further options.
            variables: Those of the compose file; they stay.
        """
        self._variables |= {name: str(value) for name, value in variables.items()}
        started_s = time.monotonic()
        self("up", "--detach", "--wait", "--no-build", *words)
        return time.monotonic() - started_s

    def scale(self, **services: int) -> None:
        """Change the numbers of containers; services that are not named get what the file says."""
        words = [f"--scale={name.replace('_', '-')}={number}" for name, number in services.items()]
        self.up("--no-recreate", *words)

    def containers(self, service: str) -> list[dict[str, Any]]:
        """Tell what Docker knows about the running containers of a service."""
        names = self("ps", "--quiet", service).split()
        return json.loads(docker("inspect", *names)) if names else []

    def kill_one(self, service: str) -> None:
        """Send SIGKILL to a container's process, as the kernel would without memory.

        `docker kill` would count as somebody's wish to have it stopped. From a container, because only
        Docker may need to be allowed to do so.
        """
        process_id = self.containers(service)[0]["State"]["Pid"]
        words = ("run", "--rm", "--user=0", "--pid=host", "--network=none", "--entrypoint=python")
        docker(*words, "glinthawk-admin", "-c", f"import os; os.kill({process_id}, 9)")

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


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])
