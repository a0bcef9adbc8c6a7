"""The verbs of planning print what they found, or one line about what cannot be used."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[4] / "examples/planning"
STATIONS = EXAMPLES / "stations.json"

HARDWARE = """
tier1: [{device: t4, price: 0.5, max_nodes: 2}]
tier2: [{device: cpu, price: 0.1, max_nodes: 2}]
network: {bandwidth_gbps: 8, rtt_ms: 1}
"""
PLAN = ("plan", "--model", "llama-3-8b", "--max-batch", 32)


@pytest.fixture
def hardware(tmp_path: Path) -> Callable[..., Path]:
    def write(old: str = "", new: str = "") -> Path:
        path = tmp_path / "hardware.yaml"
        path.write_text(HARDWARE.replace(old, new))
        return path

    return write


def test_stations_come_round_as_published(glinthawk) -> None:
    code, out, _ = glinthawk("simulate", "--model", "glinthawk", "--config", STATIONS, "--json")

    assert code == 0
    assert json.loads(out) == {"wraps_ms": [1552.0, 6412.0, 11272.0, 16132.0, 20992.0]}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"delays_ms": {}}, "delays_ms.tier1"),
        ({"in_flight": 0}, "in_flight"),
        ({"layers_per_slice": []}, "layers_per_slice"),
        ({"slices": 3}, "slices"),
    ],
)
def test_stations_that_make_no_cluster_are_refused(refuses, tmp_path, change, reason) -> None:
    path = tmp_path / "stations.json"
    path.write_text(json.dumps(json.loads(STATIONS.read_text()) | change))

    assert reason in refuses("simulate", "--model", "glinthawk", "--config", path)


def test_a_cluster_that_is_not_there_runs_a_job(glinthawk) -> None:
    lengths = ("--requests", 3, "--prompt-tokens", 5, "--output-tokens", 2)

    code, out, _ = glinthawk("simulate", "--config", EXAMPLES / "nine-t4s.yaml", *lengths, "--json")

    report = json.loads(out)
    assert code == 0
    assert (report["failed"], report["generated_tokens"]) == (0, 6)
    assert report["output_tokens_per_s"] > 0


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("device: t4", "device: t5", "device t5 is not known"),
        ("llama-2-70b", "llama-9", "llama-9"),
        ("nodes: 27", "nodes: 0", "tier2.nodes"),
        ("in_flight: 27", "in_flights: 27", "in_flights"),
        ("nodes: 9", "nodes: 99", "99 layer workers for 80 layers"),
        ("nodes: 9", "nodes: 8", "layers 0 to 10 of llama-2-70b take"),
    ],
)
def test_a_cluster_that_cannot_be_is_refused(refuses, tmp_path, old, new, reason) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text((EXAMPLES / "nine-t4s.yaml").read_text().replace(old, new))

    assert reason in refuses("simulate", "--config", path)


def test_a_plan_has_a_verdict(glinthawk, hardware) -> None:
    code, out, _ = glinthawk(*PLAN, "--hardware", hardware(), "--json")

    plan = json.loads(out)
    assert code == 0
    assert plan["verdict"].startswith(("two tiers pay", "don't"))
    assert plan["two_tiers"][0]["price_per_mtok"] <= plan["two_tiers"][-1]["price_per_mtok"]
    assert any(each["on_front"] for each in plan["two_tiers"])


def test_a_plan_for_a_person_has_tables(glinthawk, hardware) -> None:
    code, out, _ = glinthawk(*PLAN, "--hardware", hardware())

    assert code == 0
    assert "Pareto front, two tiers" in out
    assert "$/Mtok" in out


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("device: t4", "device: t5", "device t5 is not known"),
        ("price: 0.5, ", "", "tier1.0.price"),
        ("price: 0.5", "price: -1", "tier1.0.price"),
        ("device: t4", "device: cpu", "cpu"),
        ("max_nodes: 2}]\ntier2", "max_nodes: 2, memory_gib: 0.1}]\ntier2", "weights"),
        ("network:", "net:", "net"),
        ("{device", "{{device", "YAML"),
    ],
)
def test_hardware_that_cannot_be_used_is_refused(refuses, hardware, old, new, reason) -> None:
    assert reason in refuses(*PLAN, "--hardware", hardware(old, new))


def test_an_unknown_model_is_refused_with_the_known_ones(refuses, hardware) -> None:
    error = refuses("plan", "--model", "llama-9", "--hardware", hardware())

    assert "llama-2-70b" in error


def test_an_unknown_dtype_is_refused(refuses, hardware) -> None:
    assert "int4" in refuses(*PLAN, "--hardware", hardware(), "--kv-dtype", "int4")


def test_an_empty_job_is_refused(refuses, hardware, tmp_path) -> None:
    empty = tmp_path / "in.jsonl"
    empty.write_text("")

    assert "is empty" in refuses(*PLAN, "--hardware", hardware(), "--from-job", empty)


def test_the_roofline_of_a_device_is_written_for_a_model(glinthawk, tmp_path) -> None:
    path = tmp_path / "l4.json"

    code, _, _ = glinthawk("profile", "--device", "l4", "--model", "llama-2-7b", "-o", path)

    profile = json.loads(path.read_text())
    assert code == 0
    assert (profile["source"], profile["model"]["hidden_size"]) == ("roofline", 4096)


def test_the_roofline_of_an_unknown_device_is_refused(refuses, tmp_path) -> None:
    assert "t5" in refuses("profile", "--device", "t5", "-o", tmp_path / "t5.json")


def test_an_emulated_cluster_is_decided_by_its_file(refuses) -> None:
    error = refuses("up", "--emulate", EXAMPLES / "nine-t4s.yaml", "--layer-workers", 2)

    assert "--layer-workers is for" in error
