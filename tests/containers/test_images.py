"""The images: small, without what they do not need, and harmless if something gets in."""

import json

import pytest

from tests.support.containers import BASE, SERVICES, TARGETS, docker, image
from tests.support.processes import ROOT

pytestmark = [pytest.mark.usefixtures("images"), pytest.mark.timeout(1800)]

MAX_ROUTER_BYTES = 250e6


def python(service: str, code: str) -> str:
    """Run a line of Python in an image."""
    name = f"glinthawk-{service}"
    return docker("run", "--rm", "--network=none", "--entrypoint=python", name, "-c", code)


def test_the_router_is_small() -> None:
    assert image("glinthawk-router")["Size"] - image(BASE)["Size"] <= MAX_ROUTER_BYTES


@pytest.mark.parametrize("service", ["router", "kv-manager", "attention-worker", "admin"])
def test_nothing_but_a_layer_worker_has_torch(service: str) -> None:
    code = "from importlib.util import find_spec; print(find_spec('torch'), find_spec('numpy'))"

    torch, numpy = python(service, code).split(maxsplit=1)

    assert torch == "None"
    assert "numpy" in numpy


@pytest.mark.parametrize("target", TARGETS)
def test_whatever_is_installed_has_its_version_from_the_constraints(target: str) -> None:
    code = (
        "from importlib.metadata import distributions as d\n"
        "for each in d(path=['/opt/venv/lib/python3.11/site-packages']):\n"
        "    print(each.name.lower().replace('_', '-') + '==' + each.version.split('+')[0])"
    )

    installed = set(python(target, code).split())

    assert "numpy" in {each.split("==")[0] for each in installed}
    assert installed <= set((ROOT / "deploy/docker/constraints.txt").read_text().split())


@pytest.mark.parametrize("service", SERVICES)
def test_an_image_has_one_service_only(service: str) -> None:
    code = "from pathlib import Path; print(*[p.name for p in Path('/app/services').iterdir() if p.is_dir()])"

    folders = python(service, code).split()

    assert [each for each in folders if each != "__pycache__"] == [service.replace("-", "_")]


def test_the_attention_worker_has_its_kernels() -> None:
    code = (
        "from services.attention_worker.config import AttentionWorkerSettings as S\n"
        "from services.attention_worker.machine import find_machine\n"
        "print(find_machine(S()).instruction_set)"
    )

    assert python("attention-worker", code) != "torch"


def test_the_layer_worker_has_its_kernels() -> None:
    code = "import torch; from services.layer_worker import native_row_math as m; print(m.load())"

    assert python("layer-worker", code) != "None"


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_is_labelled_and_starts_no_shell_and_no_root(target: str) -> None:
    config = image(f"glinthawk-{target}")["Config"]

    assert config["User"] == "10001:10001"
    assert config["Entrypoint"][0] == "python"
    assert config["Labels"]["org.opencontainers.image.licenses"] == "MIT"
    assert target == "admin" or config["Healthcheck"]["Test"][:2] == ["CMD", "python"]


@pytest.mark.parametrize("target", TARGETS)
def test_what_runs_has_no_shell_and_cannot_change_itself(target: str) -> None:
    code = (
        "import os, shutil\n"
        "print([each for each in ('/app', '/opt/venv') if os.access(each, os.W_OK)],"
        " [each for each in ('sh', 'bash', 'dash', 'gcc', 'g++') if shutil.which(each)],"
        " os.path.exists('/opt/venv/bin/pip'))"
    )

    assert python(target, code) == "[] [] False"


def test_layer_workers_on_gpus_are_a_profile_of_their_own() -> None:
    words = ("compose", "--profile", "gpu", "config", "--format", "json")
    service = json.loads(docker(*words))["services"]["layer-worker-gpu"]

    [device] = service["deploy"]["resources"]["reservations"]["devices"]

    assert device["capabilities"] == ["gpu"]
    assert service["build"]["args"] == {"DEVICE": "cuda"}
