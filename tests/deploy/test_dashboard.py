"""The dashboard is what Grafana would load, and asks what Prometheus would answer."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

FILE = Path(__file__).parents[2] / "deploy/grafana/glinthawk.json"


@pytest.fixture
def dashboard() -> dict[str, Any]:
    return json.loads(FILE.read_text())


def test_grafana_knows_every_field_of_the_dashboard(dashboard) -> None:
    register_default_plugins()

    read = Dashboard.from_json(dashboard)

    # What Grafana's own types have no field for is not there any more; they add their defaults.
    assert missing(dashboard, json.loads(JSONEncoder().encode(read))) == []


def test_panels_stand_beside_each_other_and_not_on_top(dashboard) -> None:
    taken = [
        (column, row)
        for place in (panel["gridPos"] for panel in dashboard["panels"])
        for column in range(place["x"], place["x"] + place["w"])
        for row in range(place["y"], place["y"] + place["h"])
    ]

    assert len(taken) == len(set(taken))
    assert max(column for column, _ in taken) < 24


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_prometheus_can_read_every_question(dashboard, tmp_path) -> None:
    questions = [
        target["expr"].replace("$__rate_interval", "1m")
        for panel in dashboard["panels"]
        for target in panel["targets"]
    ]
    rules = [{"record": f"question:{n}", "expr": each} for n, each in enumerate(questions)]
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))

    done = subprocess.run(["promtool", "check", "rules", file], capture_output=True, text=True)

    assert done.returncode == 0, done.stderr


def missing(written: Any, read: Any, path: str = "") -> list[str]:
    """List what was written and not read, or read as something else."""
    if isinstance(written, dict) and isinstance(read, dict):
        return [
            each
            for key, value in written.items()
            for each in missing(value, read.get(key), f"{path}.{key}")
        ]
    if isinstance(written, list) and isinstance(read, list) and len(written) == len(read):
        pairs = enumerate(zip(written, read, strict=True))
        return [each for n, pair in pairs for each in missing(*pair, f"{path}[{n}]")]
    return [] if written == read else [path]
