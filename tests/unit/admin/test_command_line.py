"""What is refused is one line on stderr and exit code 2, and nothing is left running."""

import http.server
import json
import shutil
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

SHIPPED = Path(__file__).parents[3] / "examples/tiny/model"

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def batch(tmp_path: Path) -> Path:
    path = tmp_path / "in.jsonl"
    path.write_text("{}\n")
    return path


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return Path(shutil.copytree(SHIPPED, tmp_path / "model"))


def run_batch(input_file: Path, model: Path, *more: object) -> tuple[object, ...]:
    output = input_file.parent / "out.jsonl"
    return ("run-batch", "-i", input_file, "-o", output, "--model", model, *more)


def test_an_interrupt_before_the_commands_are_there_is_one_line(
    glinthawk, monkeypatch: pytest.MonkeyPatch
) -> None:
    class CtrlC:
        """Comes in the middle of an import."""

        def find_spec(self, name: str, *_: object) -> None:
            if name == "services.admin.commands":
                raise KeyboardInterrupt

    monkeypatch.delitem(sys.modules, "services.admin.commands", raising=False)
    monkeypatch.setattr(sys, "meta_path", [CtrlC(), *sys.meta_path])

    code, out, error = glinthawk("status")

    assert (code, out, error.count("\n")) == (130, "", 1)


def test_an_unknown_option_is_refused_with_the_nearest_one(refuses, batch: Path) -> None:
    error = refuses(*run_batch(batch, SHIPPED, "--max-num-seq", 3))

    assert "--max-num-seq" in error
    assert "--max-num-seqs" in error


def test_an_unknown_command_is_refused(refuses) -> None:
    assert "runbatch" in refuses("runbatch")


def test_a_missing_option_is_named(refuses) -> None:
    assert "--input-file" in refuses("run-batch", "-o", "out.jsonl")


def test_a_missing_input_is_refused(refuses, tmp_path: Path) -> None:
    assert "is not a file" in refuses(*run_batch(tmp_path / "none.jsonl", SHIPPED))


def test_an_empty_input_is_refused(refuses, batch: Path) -> None:
    batch.write_text("")

    assert "is empty" in refuses(*run_batch(batch, SHIPPED))


def test_a_job_without_a_model_is_refused(refuses, batch: Path) -> None:
    assert "--model" in refuses("run-batch", "-i", batch, "-o", batch.parent / "out.jsonl")


def test_a_missing_model_directory_is_refused(refuses, batch: Path) -> None:
    assert "is not a directory" in refuses(*run_batch(batch, batch.parent / "nowhere"))


def test_a_truncated_checkpoint_is_refused(refuses, batch: Path, checkpoint: Path) -> None:
    weights = checkpoint / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])

    assert "model.safetensors" in refuses(*run_batch(batch, checkpoint))


def test_a_missing_shard_is_refused(refuses, batch: Path, checkpoint: Path) -> None:
    shard = "model-00001-of-00002.safetensors"
    (checkpoint / "model.safetensors").rename(checkpoint / "model-00002-of-00002.safetensors")
    index = {"weight_map": {"model.norm.weight": shard}}
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps(index))

    assert f"{shard} is missing" in refuses(*run_batch(batch, checkpoint))


def test_a_config_that_is_not_json_is_refused(refuses, batch: Path, checkpoint: Path) -> None:
    (checkpoint / "config.json").write_text("{")

    assert "config.json is not JSON" in refuses(*run_batch(batch, checkpoint))


def test_a_router_that_is_not_there_is_named(refuses, batch: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"

    assert f"no router answers at {url}" in refuses(*run_batch(batch, SHIPPED, "--url", url))
    assert not (batch.parent / "out.jsonl.part").exists()


@pytest.mark.parametrize(
    "words",
    [
        ("status",),
        ("top",),
        ("workers", "list"),
        ("workers", "drain", "any"),
        ("jobs", "list"),
        ("jobs", "show", "any"),
        ("jobs", "cancel", "any"),
        ("jobs", "resume", "any"),
        ("complete", "any"),
    ],
)
def test_the_environment_names_the_router(
    refuses, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    monkeypatch.setenv("GLINTHAWK_ADMIN__URL", "http://127.0.0.1:9")

    assert "http://127.0.0.1:9" in refuses(*words)


def test_an_address_that_is_no_url_is_refused(refuses) -> None:
    assert "no router answers at localhost" in refuses("status", "--url", "localhost")


def test_a_port_in_use_is_refused(refuses) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        assert f":{port} cannot be had" in refuses("up", "--model", SHIPPED, "--port", port)


def test_help_lists_every_verb(glinthawk: Command) -> None:
    code, out, _ = glinthawk("--help")

    assert code == 0
    assert all(verb in out for verb in ("run-batch", "up", "status", "router", "kv-manager"))


def test_the_version_is_said(glinthawk: Command) -> None:
    code, out, _ = glinthawk("--version")

    assert (code, out.split()[0]) == (0, "glinthawk")


def test_serve_takes_its_model_as_vllms_does(refuses, tmp_path: Path) -> None:
    assert f"{tmp_path / 'none'} is not a directory" in refuses("serve", tmp_path / "none")


def test_a_server_that_is_no_router_is_named(refuses, tmp_path: Path) -> None:
    class Nothing(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(404)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Nothing) as server:
        threading.Thread(target=server.serve_forever).start()

        error = refuses("status", "--url", f"http://127.0.0.1:{server.server_port}")

        server.shutdown()
    assert "is no router" in error


def test_without_a_command_the_help_is_shown(glinthawk: Command) -> None:
    code, out, error = glinthawk()

    assert code == 2
    assert "run-batch" in out + error


def test_settings_can_be_shown_for_scripts(glinthawk: Command) -> None:
    code, out, _ = glinthawk("config", "show", "--json")

    assert code == 0
    assert "router.block_size" in json.loads(out)


def test_keys_are_made_and_never_overwritten(glinthawk: Command, refuses, tmp_path: Path) -> None:
    code, out, _ = glinthawk("keys", "create", tmp_path / "keys", "--json")

    assert code == 0
    assert json.loads(out)["keys"].keys() == {
        "router", "layer_worker", "attention_worker", "kv_manager",
    }  # fmt: skip
    assert "never overwritten" in refuses("keys", "create", tmp_path / "keys")
    assert glinthawk("keys", "create", tmp_path / "keys", "--keep", "--json")[:2] == (0, out)


def test_an_api_key_is_shown_once_and_kept_as_a_hash(glinthawk: Command, tmp_path: Path) -> None:
    code, key, _ = glinthawk("keys", "api-key", tmp_path / "keys", "--name", "alice")

    assert code == 0
    assert key.startswith("gh-")
    assert key.strip() not in (tmp_path / "keys").read_text()


def test_a_cluster_for_other_machines_needs_keys(refuses) -> None:
    error = refuses("up", "--model", SHIPPED, "--port", 0, "--bind", "tcp://0.0.0.0:7400")

    assert "--key-directory" in error
