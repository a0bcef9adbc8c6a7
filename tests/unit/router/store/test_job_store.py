"""What a restart of the router finds again, and what it never finds twice."""

import json
import sqlite3

import pytest

from common.errors import SettingsError
from services.router.store.job_records import NewJob, StoredFile
from services.router.store.job_store import JobStore
from services.router.text.batch_file import Place
from services.router.text.line_parser import MAX_LINE_BYTES
from services.router.text.results import ResultLine
from tests.support.jobs import completion

NOW = 1000.0


@pytest.fixture
def store(tmp_path):
    store = JobStore(tmp_path)
    yield store
    store.close()


def load(store, content, *, queue=True, window=None):
    """Make a job of a file's content."""
    path = store.file_path("file")
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    new = NewJob(
        file_id="file",
        endpoint=None,
        seed=5,
        metadata={"a": "b"},
        completion_window=window,
        made_with={"dtype": "bf16"},
    )
    job_id = store.begin_job(new, NOW)
    place, after = None, Place()
    while place != after:
        place, after = after, store.load_lines(job_id, after, NOW)
    if queue:
        store.queue_job(job_id, after.number, NOW)
    return job_id


def lines(*custom_ids):
    return "".join(f"{completion(custom_id)}\n" for custom_id in custom_ids).encode()


def result(job_id, number, *, ok=True):
    return ResultLine(
        job_id=job_id, number=number, ok=ok, prompt_tokens=2, generated_tokens=3, text=f"r{number}"
    )


def test_each_start_raises_the_term(tmp_path):
    terms = []
    for _ in range(3):
        store = JobStore(tmp_path)
        terms.append(store.term)
        store.close()

    assert terms == [1, 2, 3]


def test_a_second_router_on_the_directory_is_refused(store, tmp_path):
    with pytest.raises(SettingsError, match="another router uses"):
        JobStore(tmp_path)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("PRAGMA user_version = 0", "is a job store of version 0, this release reads version"),
        ("PRAGMA user_version = 99", "is a job store of version 99, this release reads version"),
        ("PRAGMA application_id = 7", "is no job store of Glinthawk"),
    ],
)
def test_the_file_of_another_release_or_program_is_refused_as_it_is(tmp_path, change, told):
    JobStore(tmp_path).close()
    file = sqlite3.connect(tmp_path / "jobs.sqlite")
    file.execute(change)
    file.execute("PRAGMA journal_mode = DELETE")
    file.close()
    before = (tmp_path / "jobs.sqlite").read_bytes()

    for _ in range(2):
        with pytest.raises(SettingsError, match=told):
            JobStore(tmp_path)

    assert (tmp_path / "jobs.sqlite").read_bytes() == before


def test_what_is_no_job_store_is_refused_and_let_go(tmp_path):
    (tmp_path / "jobs.sqlite").write_text("something else entirely, and long enough" * 50)

    for _ in range(2):
        with pytest.raises(SettingsError, match="not a usable job store"):
            JobStore(tmp_path)


def test_a_job_keeps_its_lines_in_order(store):
    job_id = load(store, b"\n" + lines("a", "b") + b"  \n" + lines("c").rstrip())

    taken = store.take_lines(job_id, 0, 10).lines

    assert [number for number, _ in taken] == [0, 1, 2]
    assert [json.loads(text)["custom_id"] for _, text in taken] == ["a", "b", "c"]
    assert (store.job(job_id).num_lines, store.job(job_id).metadata) == (3, {"a": "b"})


def test_a_large_file_comes_in_many_commits(store):
    job_id = load(store, lines(*map(str, range(1200))))

    assert store.job(job_id).num_lines == 1200
    assert len(store.take_lines(job_id, 1100, 500).lines) == 100


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (lines("a"), "line 1 has the same 'custom_id'"),
        (b'{"custom_id": "\xff"}\n', "not UTF-8"),
        (b" " * MAX_LINE_BYTES + b"{}\n", "longer than"),
    ],
)
def test_a_line_that_is_seen_to_be_wrong_has_its_error_line_at_once(store, bad, says):
    job_id = load(store, lines("a") + bad + lines("c"))

    assert [number for number, _ in store.take_lines(job_id, 0, 10).lines] == [0, 2]
    ((number, text),) = store.results(job_id, 0, 10)
    assert number == 1
    assert says in json.loads(text)["error"]["message"]
    assert store.job(job_id).num_failed == 1


def test_a_double_keeps_its_custom_id_in_its_error_line(store):
    job_id = load(store, lines("a", "a"))

    ((_, text),) = store.results(job_id, 0, 10)

    assert json.loads(text)["custom_id"] == "a"


def test_lines_without_custom_id_are_no_doubles(store):
    job_id = load(store, b"{\n{\n{}\n")

    assert len(store.take_lines(job_id, 0, 10).lines) == 3


def test_finished_lines_are_not_taken_again(store):
    job_id = load(store, lines("a", "b", "c"))
    store.save_results([result(job_id, 1)], NOW)

    assert [number for number, _ in store.take_lines(job_id, 0, 10).lines] == [0, 2]
    assert [number for number, _ in store.take_lines(job_id, 1, 10).lines] == [2]


def test_a_line_keeps_its_first_result(store):
    job_id = load(store, lines("a", "b"))
    store.save_results([result(job_id, 0)], NOW)

    store.save_results([result(job_id, 0, ok=False)], NOW)

    assert (store.job(job_id).num_completed, store.job(job_id).num_failed) == (1, 0)


def test_a_job_is_completed_with_its_last_line(store):
    job_id = load(store, lines("a", "b"))
    assert store.job(job_id).state == "queued"
    store.take_lines(job_id, 0, 10)
    assert store.job(job_id).state == "running"
    store.save_results([result(job_id, 1)], NOW)
    assert store.job(job_id).ended_at is None

    store.save_results([result(job_id, 0, ok=False)], NOW + 5)

    job = store.job(job_id)
    assert (job.state, job.ended_at) == ("completed", NOW + 5)
    assert (job.num_completed, job.num_failed) == (1, 1)
    assert (job.prompt_tokens, job.generated_tokens) == (4, 6)
    assert store.results(job_id, 0, 10) == [(0, "r0"), (1, "r1")]


def test_a_cancelled_job_stays_so_and_keeps_its_results(store):
    job_id = load(store, lines("a", "b"))
    store.save_results([result(job_id, 0)], NOW)

    store.cancel_job(job_id, NOW)
    store.save_results([result(job_id, 1)], NOW)

    assert store.job(job_id).state == "cancelled"
    assert len(store.results(job_id, 0, 10)) == 2


def test_a_restart_finds_jobs_and_results_but_no_half_loaded_job(tmp_path):
    store = JobStore(tmp_path)
    job_id = load(store, lines("a", "b"))
    half = load(store, lines("a"), queue=False)
    store.save_results([result(job_id, 0)], NOW)
    store.close()

    store = JobStore(tmp_path)

    assert [job.job_id for job in store.jobs()] == [job_id]
    assert store.take_lines(half, 0, 10).lines == []
    assert [number for number, _ in store.take_lines(job_id, 0, 10).lines] == [1]
    store.close()


def test_a_failed_transaction_leaves_nothing(store):
    job_id = load(store, lines("a", "b"))

    with pytest.raises(AttributeError):
        store.save_results([result(job_id, 0), None], NOW)

    assert store.results(job_id, 0, 10) == []
    assert store.job(job_id).num_completed == 0


@pytest.mark.parametrize(("window", "seconds"), [("30m", 1800), ("24h", 86400), ("7d", 604800)])
def test_a_completion_window_says_when_a_job_expires(store, window, seconds):
    job_id = load(store, lines("a"), window=window)

    assert store.job(job_id).expires_at == NOW + seconds


def test_what_an_expired_job_has_not_done_gets_an_error_line(store):
    job_id = load(store, lines("a", "b", "c"), window="1m")
    forever = load(store, lines("a"))
    store.save_results([result(job_id, 1)], NOW)

    early, late = store.expire_jobs(NOW + 59), store.expire_jobs(NOW + 60)

    job = store.job(job_id)
    assert (early, late, store.expire_jobs(NOW + 61)) == ([], [job_id], [])
    assert (job.state, job.ended_at, job.num_completed, job.num_failed) == (
        "expired", NOW + 60, 1, 2,
    )  # fmt: skip
    errors = [json.loads(text) for _, text in store.results(job_id, 0, 10, ok=False)]
    assert [(line["custom_id"], line["error"]["code"]) for line in errors] == [
        ("a", "batch_expired"),
        ("c", "batch_expired"),
    ]
    assert store.job(forever).state == "queued"


def test_successes_and_errors_are_read_apart(store):
    job_id = load(store, lines("a", "b", "c"))
    store.save_results([result(job_id, 0), result(job_id, 1, ok=False), result(job_id, 2)], NOW)

    assert store.results(job_id, 0, 10, ok=True) == [(0, "r0"), (2, "r2")]
    assert store.results(job_id, 0, 10, ok=False) == [(1, "r1")]
    assert (store.results_size(job_id, True), store.results_size(job_id, False)) == (6, 3)


def test_a_deleted_file_is_gone_and_its_job_is_not(store):
    file = StoredFile(file_id="file", name="in", size_bytes=1, created_at=NOW)
    store.add_file(file)
    job_id = load(store, lines("a"))

    assert store.files() == [file]
    assert [store.delete_file("file") for _ in range(2)] == [True, False]
    assert not store.file_path("file").exists()
    assert len(store.take_lines(job_id, 0, 10).lines) == 1
