"""The API does what its own document says, whatever is asked: no 5xx, no answer it does not name."""

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from services.router.calls import Calls
from services.router.http.app import create_app
from services.router.text.ingest import Reader
from tests.support.http import FakeCluster, FakeDesk, FakeState, router_metrics
from tests.support.jobs import served, write_model

pytestmark = [pytest.mark.slow]

CHECKS = (
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
)


@pytest.fixture(scope="module")
def api(tmp_path_factory):
    reader = Reader(served(write_model(tmp_path_factory.mktemp("model"))))
    state = FakeState()
    state.calls = Calls(reader, state.post, max_calls=4)
    yield schemathesis.openapi.from_asgi(
        "/openapi.json", create_app(FakeDesk(), state.calls, FakeCluster(), router_metrics())
    )
    state.calls.close()


@pytest.mark.parametrize("mode", GenerationMode)
def test_every_answer_is_one_that_the_document_names(api, mode):
    labels = set()
    for found in api.get_all_operations():
        operation = found.ok()
        if mode is GenerationMode.NEGATIVE and not (operation.body or operation.query):
            continue  # any path is a valid one

        @settings(max_examples=15, suppress_health_check=[HealthCheck.too_slow])
        @given(case=operation.as_strategy(generation_mode=mode))
        def ask(case):
            case.call_and_validate(checks=CHECKS)

        ask()
        labels.add(operation.label)
    assert "POST /v1/chat/completions" in labels
