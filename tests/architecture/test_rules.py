"""Rules about the source that no linter checks, and the import contracts, which one does."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SERVICES = ("router", "layer_worker", "attention_worker", "kv_manager")
FIVE_FILES = ("__init__.py", "__main__.py", "config.py", "state.py", "service.py")
MAX_LINES = 400

RUNS_WHAT_IT_READS = {
    "eval",
    "exec",
    "pickle",
    "marshal",
    "shelve",
    "torch.load",
    "yaml.load",
    "yaml.unsafe_load",
    "yaml.full_load",
}
"""Names whose use could turn received bytes into running code."""


def sources(*packages: str) -> list[Path]:
    return [path for package in packages for path in sorted((ROOT / package).rglob("*.py"))]


def names_used(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from (alias.name.partition(".")[0] for alias in names)
            case ast.ImportFrom(module=str(module), names=names):
                yield module
                yield from (f"{module}.{alias.name}" for alias in names)
            case ast.Call(func=ast.Name(id=name)):
                yield name
            case ast.Attribute(value=ast.Name(id=module), attr=name):
                yield f"{module}.{name}"


@pytest.mark.parametrize(
    "code", ["eval(x)", "import pickle", "from yaml import load", "torch.load(f)"]
)
def test_the_search_for_names_sees_every_spelling(code: str) -> None:
    assert RUNS_WHAT_IT_READS & set(names_used(ast.parse(code)))


def test_nothing_that_is_read_can_run() -> None:
    found = {
        f"{path.relative_to(ROOT)}: {name}"
        for path in sources("common", "services")
        for name in RUNS_WHAT_IT_READS & set(names_used(ast.parse(path.read_text())))
    }

    assert not found


def test_a_file_is_about_one_noun() -> None:
    long = {
        str(path.relative_to(ROOT))
        for path in sources("common", "services", "tests", "examples", "benchmarks")
        if len(path.read_text().splitlines()) >= MAX_LINES
    }

    assert not long


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_has_the_five_files(service: str) -> None:
    files = {path.name for path in (ROOT / "services" / service).glob("*.py")}

    assert files.issuperset(FIVE_FILES)


@pytest.mark.slow
@pytest.mark.parametrize("service", ["router", "kv_manager"])
def test_the_deciding_services_start_without_torch(service: str) -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"  # importing it raises
        f"import services.{service}.__main__, services.{service}.service"
    )

    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)

    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_the_import_contracts_hold() -> None:
    code = (
        "from importlinter.cli import lint_imports; raise SystemExit(lint_imports(no_cache=True))"
    )

    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)

    assert done.returncode == 0, done.stdout
