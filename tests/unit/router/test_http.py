"""The API's paths, over a fake desk and cluster."""

import dataclasses

import anyio
import httpx
import pytest

from common.errors import SettingsError, StoreFull
from common.ids import JobId
from services.router.config import RouterSettings
from services.router.http.app import create_app
from services.router.http.server import HttpServer, listen
from tests.support.http import FILE, JOB, REPORT, FakeCluster, FakeDesk, router_metrics


@pytest.fixture
def desk():
    return FakeDesk()


@pytest.fixture
def cluster():
    return FakeCluster()


@pytest.fixture
def app(desk, cluster):
    return create_app(desk, None, cluster, router_metrics())


@pytest.fixture
def client(app):
    transport = httpx.ASGITransport(app)
    return httpx.AsyncClient(transport=transport, base_url="http://router")


def error(response, status_code):
    assert response.status_code == status_code
    return response.json()["error"]


async def test_a_file_is_uploaded(client, desk):
    answer = await client.post(
        "/v1/files", files={"file": ("x.jsonl", b"{}\n")}, data={"purpose": "batch"}
    )

    assert answer.json() == {
        "id": "file-1", "object": "file", "bytes": 3, "created_at": 7, "filename": "x.jsonl",
        "purpose": "batch", "status": "processed",
    }  # fmt: skip
    assert desk.uploaded == b"{}\n"
    assert (await client.get("/v1/files/file-1")).json()["filename"] == "in.jsonl"


async def test_a_file_for_another_purpose_is_refused(client):
    answer = await client.post(
        "/v1/files", files={"file": ("x", b"")}, data={"purpose": "fine-tune"}
    )

    assert error(answer, 400)["param"] == "purpose"


async def test_a_batch_is_created(client, desk):
    answer = await client.post(
        "/v1/batches",
        json={"input_file_id": "file-1", "endpoint": "/v1/completions", "completion_window": "24h"},
    )

    assert answer.json()["id"] == "batch_1"
    assert desk.asked == ("file-1", "/v1/completions", None, {}, "24h")


async def test_a_batch_that_is_refused_says_why(client):
    no_file = await client.post("/v1/batches", json={"input_file_id": "nothing"})
    no_endpoint = await client.post("/v1/batches", json={"input_file_id": "f", "endpoint": "/x"})
    unknown = await client.post("/v1/batches", json={"input_file_id": "f", "flag": 1})

    assert error(no_file, 400)["message"] == "there is no such file"
    assert error(no_endpoint, 400)["param"] == "endpoint"
    assert error(unknown, 400)["param"] == "flag"


async def test_a_batch_shows_its_progress(client):
    batch = (await client.get("/v1/batches/batch_1")).json()

    assert batch["status"] == "in_progress"
    assert batch["request_counts"] == {"total": 4, "completed": 2, "failed": 1}
    assert [batch["usage"][f"{kind}_tokens"] for kind in ("input", "output", "total")] == [
        10,
        20,
        30,
    ]
    assert (batch["endpoint"], batch["output_file_id"], batch["error_file_id"]) == (
        None,
        None,
        None,
    )
    assert (batch["expires_at"], batch["metadata"]) == (3608, {"a": "b"})


async def test_batches_are_listed_newest_first_a_page_at_a_time(client, desk):
    for number in (2, 3):
        job_id = JobId(f"batch_{number}")
        desk.kept[job_id] = dataclasses.replace(JOB, job_id=job_id)

    first = (await client.get("/v1/batches?limit=2")).json()
    second = (await client.get("/v1/batches?limit=2&after=batch_2")).json()

    assert [batch["id"] for batch in first["data"]] == ["batch_3", "batch_2"]
    assert [batch["id"] for batch in second["data"]] == ["batch_1"]
    assert (first["has_more"], second["has_more"]) == (True, False)


async def test_a_batch_is_cancelled_once(client):
    first = await client.post("/v1/batches/batch_1/cancel")
    again = await client.post("/v1/batches/batch_1/cancel")

    assert first.json()["status"] == "cancelled"
    assert again.json() == first.json()


async def test_results_are_read_up_to_the_first_that_is_missing(client):
    first = await client.get("/admin/jobs/batch_1/results?limit=1")
    rest = await client.get("/admin/jobs/batch_1/results?after=1")

    assert (first.text, first.headers["x-next"]) == ("{0}\n", "1")
    assert (rest.text, rest.headers["x-next"]) == ("{1}\n", "2")


async def test_an_ended_job_has_a_file_of_successes_and_one_of_errors(client):
    early = await client.get("/v1/files/output-batch_1/content")
    await client.post("/v1/batches/batch_1/cancel")
    batch = (await client.get("/v1/batches/batch_1")).json()

    outputs = await client.get(f"/v1/files/{batch['output_file_id']}/content")
    errors = await client.get(f"/v1/files/{batch['error_file_id']}/content")
    file = (await client.get(f"/v1/files/{batch['error_file_id']}")).json()

    assert error(early, 404)["message"] == "there is no file 'output-batch_1'"
    assert (outputs.text, errors.text) == ("{0}\n{3}\n", "{1}\n")
    assert (file["bytes"], file["purpose"]) == (4, "batch_output")


async def test_files_are_listed_newest_first(client, desk):
    desk.stored.append(dataclasses.replace(FILE, file_id="file-2"))

    listed = (await client.get("/v1/files?limit=1")).json()
    rest = (await client.get("/v1/files?after=file-2")).json()

    assert [file["id"] for file in listed["data"]] == ["file-2"]
    assert (listed["has_more"], listed["last_id"]) == (True, "file-2")
    assert [file["id"] for file in rest["data"]] == ["file-1"]


async def test_an_uploaded_file_is_read_and_deleted(client):
    content = await client.get("/v1/files/file-1/content")
    deleted = await client.delete("/v1/files/file-1")

    assert "stands behind the HTTP API" in content.text
    assert deleted.json() == {"id": "file-1", "object": "file", "deleted": True}
    assert error(await client.delete("/v1/files/file-1"), 404)


async def test_results_are_not_deleted_on_their_own(client):
    await client.post("/v1/batches/batch_1/cancel")

    answer = await client.delete("/v1/files/output-batch_1")

    assert "job store" in error(answer, 400)["message"]


@pytest.mark.parametrize(
    "path",
    ["/v1/batches/x", "/v1/files/x", "/v1/files/x/content", "/admin/jobs/x/results", "/nothing"],
)
async def test_what_is_not_there_is_an_error_in_openais_words(client, path):
    told = error(await client.get(path), 404)

    assert (told["type"], told["code"]) == ("invalid_request_error", "not_found")


async def test_readiness_says_what_is_missing(client, cluster):
    assert (await client.get("/readyz")).status_code == 200
    cluster.lacks = ["a KV manager"]

    answer = await client.get("/readyz")

    assert answer.status_code == 503
    assert answer.json()["missing"] == ["a KV manager"]
    assert (await client.get("/livez")).status_code == 200


async def test_the_last_steps_are_shown(client):
    assert (await client.get("/admin/steps")).json() == {"steps": [{"microbatch_id": 7}]}


@pytest.mark.parametrize("path", ["/dashboard", "/dashboard.js"])
async def test_the_dashboard_loads_nothing_from_elsewhere(client, path):
    answer = await client.get(path)

    assert answer.status_code == 200
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "https:" not in answer.text
    assert "innerHTML" not in answer.text


async def test_models_and_status_are_shown(client):
    models = (await client.get("/v1/models")).json()

    assert [model["id"] for model in models["data"]] == ["tiny"]
    assert (await client.get("/v1/models/tiny")).json() == models["data"][0]
    assert error(await client.get("/v1/models/other/one"), 404)
    assert (await client.get("/admin/status")).json()["ready"]


async def test_metrics_are_told_to_prometheus(client):
    answer = await client.get("/metrics")

    assert answer.headers["content-type"].startswith("text/plain")
    assert "glinthawk_time_to_first_token_seconds_count 0.0" in answer.text


def test_a_port_in_use_is_told_in_one_line():
    with listen(RouterSettings(http_port=0)) as taken:
        port = taken.getsockname()[1]

        with pytest.raises(SettingsError, match=f"127.0.0.1:{port} cannot be had"):
            listen(RouterSettings(http_port=port))


@pytest.mark.slow
async def test_the_server_answers_on_its_port_until_it_is_stopped(app):
    taken = listen(RouterSettings(http_port=0))
    server = HttpServer(app, taken, RouterSettings())
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.run)
        async with httpx.AsyncClient() as client:
            answer = await client.get(f"http://127.0.0.1:{taken.getsockname()[1]}/livez")
        server.stop()

    assert answer.json() == {"status": "alive"}


async def test_an_operator_sees_why_a_job_waits(client):
    shown = (await client.get("/admin/jobs/batch_1")).json()

    assert (shown["job_id"], shown["paused"]) == ("batch_1", "the disk is full")
    assert (await client.get("/admin/jobs")).json() == {"jobs": [shown]}


async def test_a_cancelled_job_can_be_resumed(client):
    cancelled = (await client.post("/admin/jobs/batch_1/cancel")).json()

    resumed = (await client.post("/admin/jobs/batch_1/resume")).json()

    assert (cancelled["state"], resumed["state"]) == ("cancelled", "running")


async def test_a_job_has_a_report_when_it_has_ended(client):
    early = (await client.get("/admin/jobs/batch_1/report")).json()
    await client.post("/admin/jobs/batch_1/cancel")

    late = (await client.get("/admin/jobs/batch_1/report")).json()

    assert early is None
    assert late["wall_s"] == REPORT.wall_s


async def test_a_job_that_nobody_knows_is_not_found(client):
    for method, path in (("GET", ""), ("GET", "/report"), ("POST", "/cancel"), ("POST", "/resume")):
        answer = await client.request(method, f"/admin/jobs/batch_9{path}")

        assert answer.status_code == 404


async def test_a_full_disk_is_told_as_one(client, desk):
    def no_room(*_):
        raise StoreFull("the file cannot be kept")

    desk.add_file = no_room

    answer = await client.post(
        "/v1/files", data={"purpose": "batch"}, files={"file": ("in.jsonl", b"{}")}
    )

    assert answer.status_code == 507
    assert answer.json()["error"]["message"] == "the file cannot be kept"


async def test_a_worker_is_drained(client, cluster):
    answer = await client.post("/admin/workers/cpu-1/drain", params={"deadline_s": 5})

    assert answer.status_code == 202
    assert cluster.drained == ("cpu-1", 5.0)


async def test_a_worker_that_is_needed_is_not_drained(client):
    answer = await client.post("/admin/workers/last/drain")

    assert error(answer, 409)["code"] == "worker_needed"
