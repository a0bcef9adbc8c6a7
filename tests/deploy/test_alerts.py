"""The alerts ask for metrics that exist, and fire when they should and not otherwise."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from services.admin.metrics_reference import metrics_reference

ROOT = Path(__file__).parents[2]
ALERTS = ROOT / "deploy/prometheus/alerts.yaml"
FOREIGN = {"up", "kubelet_volume_stats_available_bytes"}
"""Prometheus' own, and the kubelet's."""
SEVERITIES = {"info", "warning", "critical"}


def rules():
    return [
        rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]
    ]


def test_alerts_ask_only_for_metrics_that_exist() -> None:
    declared = set(re.findall(r"^\| `(glinthawk_\w+)`", metrics_reference(), re.MULTILINE))
    # A metric is followed by its labels, its window, or the end of an operand.
    asked = {
        name
        for rule in rules()
        for name in re.findall(r"\b(glinthawk_\w+|kubelet_\w+|process_\w+|up)\b", rule["expr"])
    }

    assert asked <= declared | FOREIGN
    assert len(asked) > len(FOREIGN)


def test_labels_of_alerts_are_those_of_their_metrics() -> None:
    rows = re.findall(r"^\| `(glinthawk_\w+)` \| \w+ \| ([\w, ]*) \|", metrics_reference(), re.M)
    labels = {name: {*filter(None, row.split(", ")), "instance", "job"} for name, row in rows}

    for rule in rules():
        for name, matchers in re.findall(r"(glinthawk_\w+)\{([^}]*)\}", rule["expr"]):
            assert set(re.findall(r"(\w+)=", matchers)) <= labels[name], rule["alert"]


def test_every_alert_says_how_bad_it_is_and_what_to_do() -> None:
    for rule in rules():
        assert rule["labels"]["severity"] in SEVERITIES
        assert {"summary", "action"} <= rule["annotations"].keys()
        assert rule["for"], "a single scrape is no reason to wake anybody"


def test_operations_tell_about_every_alert() -> None:
    text = (ROOT / "docs/operations.md").read_text()

    assert [rule["alert"] for rule in rules() if f"`{rule['alert']}`" not in text] == []


def test_prometheus_is_told_where_the_metrics_are() -> None:
    config = yaml.safe_load((ALERTS.parent / "prometheus.yaml").read_text())

    assert config["rule_files"] == [ALERTS.name]
    # Alerts name the job.
    assert [job["job_name"] for job in config["scrape_configs"]] == ["glinthawk"]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_alerts_fire_when_they_should_and_not_otherwise() -> None:
    cases = Path(__file__).with_name("alert_cases.yaml")

    done = subprocess.run(
        ["promtool", "test", "rules", cases], capture_output=True, text=True, timeout=50
    )

    assert done.returncode == 0, done.stderr
