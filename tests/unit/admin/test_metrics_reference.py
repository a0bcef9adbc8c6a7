"""The metrics' document, the dashboard and the declarations agree."""

import json
import re
from pathlib import Path

from services.admin.metrics_reference import metrics_reference

ROOT = Path(__file__).parents[3]


def test_the_metrics_document_is_what_the_declarations_say() -> None:
    document = (ROOT / "docs/metrics.md").read_text()

    assert document == metrics_reference(), (
        "python -m services.admin.metrics_reference > docs/metrics.md"
    )


def test_the_dashboard_asks_only_for_metrics_that_exist() -> None:
    dashboard = json.loads((ROOT / "deploy/grafana/glinthawk.json").read_text())
    declared = set(re.findall(r"^\| `(glinthawk_\w+)`", metrics_reference(), re.MULTILINE))

    asked = {
        name.removesuffix("_bucket")
        for panel in dashboard["panels"]
        for target in panel["targets"]
        for name in re.findall(r"glinthawk_\w+", target["expr"])
    }

    assert asked <= declared
    assert len(dashboard["panels"]) == len({panel["title"] for panel in dashboard["panels"]})
