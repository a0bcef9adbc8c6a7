"""`glinthawk workers`, over a router that is made up."""

import io
from typing import Any

from services.admin.workers import drain, list_workers


class FakeClient:
    """A router whose worker leaves after it was asked about so often."""

    def __init__(self, num_looks: int = 2) -> None:
        self.num_looks = num_looks
        self.drained: list[tuple[str, float]] = []

    def drain(self, worker_id: str, deadline_s: float) -> None:
        self.drained.append((worker_id, deadline_s))

    def status(self) -> dict[str, Any]:
        self.num_looks -= 1
        pool = {"free": 5, "held": 1, "shared": 2, "cached": 0}
        worker = {"ready": True, "leaving": False, "layers": None, "pages": 8, "pool": pool}
        attention = {**worker, "worker_id": "cpu-0", "role": "attention_worker"}
        layer = {"ready": False, "layers": [0, 4], "pages": 0, "pool": None}
        others = [{**worker, **layer, "worker_id": "gpu-0", "role": "layer_worker"}]
        return {"workers": [*others, *([attention] if self.num_looks >= 0 else [])]}


def test_workers_are_listed_with_their_pages() -> None:
    out = io.StringIO()

    list_workers(FakeClient(), out)  # type: ignore[arg-type]

    rows = [row.split() for row in out.getvalue().splitlines()]
    assert rows[1] == ["gpu-0", "layer_worker", "starting", "[0,", "4)", *"-----"]
    assert rows[2] == ["cpu-0", "attention_worker", "ready", "-", "8", "5", "1", "2", "0"]


def test_a_drain_waits_until_the_worker_has_left() -> None:
    client, out = FakeClient(num_looks=1), io.StringIO()

    drain(client, "cpu-0", 30.0, out)  # type: ignore[arg-type]

    assert client.drained == [("cpu-0", 30.0)]
    assert out.getvalue().endswith("cpu-0 has left\n")
