"""A living cluster asked by its own document: never a 5xx, nothing without a key, and work goes on."""

import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import response_schema_conformance, status_code_conformance

from services.router.http.keys import add_api_key
from tests.support.processes import ROOT, SHIPPED, run, url_of

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(180)]

SHIPPED_BATCH = ROOT / "examples/tiny/batch.jsonl"
CHECKS = (not_a_server_error, status_code_conformance, response_schema_conformance)
EXAMPLES = settings(
    max_examples=6, suppress_health_check=list(HealthCheck), deadline=None, derandomize=True
)


@pytest.fixture
def guarded(
    launch: Callable[..., subprocess.Popen[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[str, str]]:
    """Give the URL and a key of a cluster that asks for keys."""
    key = add_api_key(tmp_path / "api-keys", "operator", "admin")
    monkeypatch.setenv("GLINTHAWK_ROUTER__API_KEY_FILE", str(tmp_path / "api-keys"))
    monkeypatch.setenv("GLINTHAWK_ADMIN__API_KEY", key)
    cluster = launch("up", "--model", SHIPPED, "--port", 0)
    with ExitStack() as stack:
        stack.callback(cluster.communicate, timeout=60)
        stack.callback(cluster.send_signal, signal.SIGTERM)
        yield url_of(cluster), key


def test_the_api_answers_whatever_it_is_asked_and_only_with_a_key(
    guarded: tuple[str, str], temporary: Path, tmp_path: Path
) -> None:
    url, key = guarded
    with_key = {"authorization": f"Bearer {key}"}
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json", headers=with_key)
    opened = set()
    for found in schema.get_all_operations():
        operation = found.ok()

        @EXAMPLES
        @given(case=operation.as_strategy(generation_mode=GenerationMode.NEGATIVE))
        def ask(case: schemathesis.Case) -> None:
            case.call_and_validate(headers=with_key, checks=CHECKS, timeout=30)

        if operation.body or operation.query:  # any path is a valid one
            ask()
        path = operation.path.replace("{", "").replace("}", "")
        if httpx.request(operation.method, f"{url}{path}").status_code != 401:
            opened.add(path)
    output = tmp_path / "out.jsonl"

    code, _, error = run(temporary, "run-batch", "-i", SHIPPED_BATCH, "-o", output, "--url", url)

    assert opened == {"/livez", "/readyz"}
    assert code == 0, error
    assert len(output.read_text().splitlines()) == len(SHIPPED_BATCH.read_text().splitlines())
