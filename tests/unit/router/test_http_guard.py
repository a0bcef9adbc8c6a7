"""Keys and sizes, before the API sees a request."""

from pathlib import Path

import httpx
import pytest

from common.errors import SettingsError
from services.router.config import RouterSettings
from services.router.http.app import create_app
from services.router.http.guard import BodyLimits, Guard
from services.router.http.keys import ApiKeys, add_api_key
from services.router.http.server import HttpServer, listen
from tests.support.http import FakeCluster, FakeDesk, router_metrics

LIMITS = BodyLimits(max_upload_bytes=1000, max_body_bytes=100)
V1 = ("/v1/models", "/v1/nothing", "/", "//livez", "/docs")
ADMIN = ("/admin/status", "/admin/jobs/batch_1/results", "/metrics")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "api-keys"


@pytest.fixture
def keys(file: Path) -> dict[str, str]:
    return {scope: add_api_key(file, f"{scope}-user", scope) for scope in ("api", "admin")}


@pytest.fixture
def guarded(file: Path, keys):
    """Give a client of an API that asks for keys."""
    return client(ApiKeys(file))


def client(keys: ApiKeys | None) -> httpx.AsyncClient:
    app = Guard(create_app(FakeDesk(), None, FakeCluster(), router_metrics()), keys, LIMITS)
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://router")


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


@pytest.mark.parametrize("path", [*V1, *ADMIN])
@pytest.mark.parametrize("header", ["", "Bearer", "Bearer x", "Basic x", "\xff"])
async def test_without_a_key_there_is_nothing(guarded, path: str, header: str) -> None:
    answer = await guarded.get(path, headers={"authorization": header.encode("latin-1")})

    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("path", ["/livez", "/readyz"])
async def test_probes_need_no_key(guarded, path: str) -> None:
    assert (await guarded.get(path)).status_code == 200


@pytest.mark.parametrize("scope", ["api", "admin"])
async def test_every_key_may_use_the_api(guarded, keys, scope: str) -> None:
    assert (await guarded.get("/v1/models", headers=bearer(keys[scope]))).status_code == 200


@pytest.mark.parametrize("path", ADMIN)
async def test_what_operators_ask_needs_a_key_of_theirs(guarded, keys, path: str) -> None:
    refused = await guarded.get(path, headers=bearer(keys["api"]))

    assert refused.status_code == 403
    assert "scope admin" in refused.json()["error"]["message"]
    assert (await guarded.get(path, headers=bearer(keys["admin"]))).status_code != 403


async def test_the_word_bearer_may_be_written_in_any_case(guarded, keys) -> None:
    answer = await guarded.get("/v1/models", headers={"authorization": f"bearer {keys['api']}"})

    assert answer.status_code == 200


async def test_without_a_file_of_keys_everyone_is_served() -> None:
    assert (await client(None).get("/admin/status")).status_code == 200


async def test_a_declared_size_over_the_limit_is_refused_unread() -> None:
    answer = await client(None).post("/v1/batches", content=b"x" * 101)

    assert answer.status_code == 413
    assert "more than 100 bytes" in answer.json()["error"]["message"]


async def test_a_body_that_goes_on_beyond_the_limit_is_refused() -> None:
    async def chunks():
        for _ in range(20):
            yield b"x" * 10

    answer = await client(None).post(
        "/v1/batches", content=chunks(), headers={"content-type": "application/json"}
    )

    assert answer.status_code == 413


async def test_an_upload_may_be_larger_but_not_too_large() -> None:
    async def upload(num_bytes: int) -> int:
        files = {"file": ("a", b"x" * num_bytes)}
        answer = await client(None).post("/v1/files", files=files, data={"purpose": "batch"})
        return answer.status_code

    assert (await upload(500), await upload(1000)) == (200, 413)


async def test_a_deeply_nested_body_is_refused() -> None:
    limits = BodyLimits(max_upload_bytes=1, max_body_bytes=10**6)
    app = Guard(create_app(FakeDesk(), None, FakeCluster(), router_metrics()), None, limits)
    deep = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://router")

    answer = await deep.post(
        "/v1/batches", content=b"[" * 100_000, headers={"content-type": "application/json"}
    )

    assert answer.status_code == 400


def test_the_network_is_served_only_with_keys_or_if_asked_for(file: Path, keys) -> None:
    with pytest.raises(SettingsError, match="--api-key-file"):
        listen(RouterSettings(http_host="0.0.0.0", http_port=0))

    listen(RouterSettings(http_host="0.0.0.0", http_port=0, api_key_file=file)).close()
    listen(RouterSettings(http_host="0.0.0.0", http_port=0, http_without_keys=True)).close()


def test_a_certificate_that_is_none_is_refused_in_one_line(tmp_path: Path) -> None:
    nothing = tmp_path / "nothing.pem"
    nothing.touch()
    settings = RouterSettings(tls_certificate=nothing, tls_key=nothing, http_port=0)

    with listen(settings) as taken, pytest.raises(SettingsError, match="no certificate"):
        HttpServer(create_app(FakeDesk(), None, FakeCluster(), router_metrics()), taken, settings)


def test_a_certificate_needs_its_key() -> None:
    with pytest.raises(ValueError, match="needs both"):
        RouterSettings(tls_certificate="a.pem")
