"""A cluster file becomes processes that stand for its machines, in its own time."""

from pathlib import Path

from common.policy.profile import read_profile
from services.admin.planner.cluster_file import read_cluster
from services.admin.planner.emulation import emulated_plan

FILE = Path(__file__).parents[4] / "examples/planning/nine-t4s-emulated.yaml"


def test_every_machine_is_a_process_with_its_profile_and_the_stretched_latency() -> None:
    with emulated_plan(read_cluster(FILE)) as plan:
        layer = read_profile(Path(plan.layer["profile"]))
        model = Path(plan.router["model"])

        assert (plan.layer_workers, plan.attention_workers) == (9, 27)
        assert (layer.node, layer.source) == ("t4", "roofline")
        assert plan.layer["time_scale"] == plan.attention["time_scale"] == 10
        assert plan.shared["link_delay_ms"] == 10.0
        assert (model / "config.json").exists()
    assert not model.exists()
