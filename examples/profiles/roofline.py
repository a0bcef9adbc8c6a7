"""Writes the profiles beside it: what bandwidth and arithmetic allow, nothing was measured here.

    python -m examples.profiles.roofline

`services/admin/planner/devices.py` has the data sheets, the formulas and what is assumed.
"""

from pathlib import Path

from common.policy.profile import write_profile
from services.admin.planner.devices import DEVICES, roofline
from services.admin.planner.models import MODELS

FOLDER = Path(__file__).parent

_MODELS = ("llama-2-70b", "llama-3-8b")

PROFILES = {
    **{
        f"{device.name}-{name}": roofline(device, MODELS[name])
        for device in DEVICES.values()
        if device.tier == 1
        for name in _MODELS
    },
    **{
        device.name: roofline(device, None, "bf16")
        for device in DEVICES.values()
        if device.tier == 2
    },
}
"""By the name of their file. The rates of a machine that only attends hold for any model."""


if __name__ == "__main__":
    for name, profile in PROFILES.items():
        write_profile(profile, FOLDER / f"{name}.json")
