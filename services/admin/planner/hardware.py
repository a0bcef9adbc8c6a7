"""The machines that one could have, their prices, and the network between them: a YAML file."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from common.errors import SettingsError
from common.policy.profile import Profile, read_profile
from services.admin.planner.devices import GIB, find_device, roofline
from services.admin.planner.estimate import Network
from services.admin.planner.files import Part, read_file
from services.admin.planner.models import PlannedModel

KvDtype = Literal["bf16", "fp16", "fp32", "int8"]

_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Machine(Part):
    """A machine, by its profile."""

    device: str
    """A name that the planner knows, or a profile's file."""
    memory_gib: _Positive | None = None
    """That can be used; by default the profile's."""


class NodeKind(Machine):
    """A kind of machine that can be had."""

    price: _Positive
    """Per machine and hour."""
    max_nodes: Annotated[int, Field(ge=1)]


class Links(Part):
    """The network."""

    bandwidth_gbps: _Positive
    """Of each layer worker's link to tier 2."""
    rtt_ms: _NotNegative
    """Between the tiers."""
    tier1_bandwidth_gbps: _Positive | None = None
    """Between layer workers; by default the same."""
    tier1_rtt_ms: _NotNegative | None = None

    def network(self) -> Network:
        """Give it in seconds and bytes."""
        slice_gbps = self.tier1_bandwidth_gbps or self.bandwidth_gbps
        slice_rtt_ms = self.rtt_ms if self.tier1_rtt_ms is None else self.tier1_rtt_ms
        return Network(
            bytes_per_s=self.bandwidth_gbps * 1e9 / 8,
            latency_s=self.rtt_ms / 2000,
            slice_bytes_per_s=slice_gbps * 1e9 / 8,
            slice_latency_s=slice_rtt_ms / 2000,
        )


class Hardware(Part):
    """What can be bought or rented."""

    tier1: Annotated[tuple[NodeKind, ...], Field(min_length=1)]
    tier2: tuple[NodeKind, ...] = ()
    network: Links
    currency: str = "$"
    """What prices are in, per hour."""


class Node(BaseModel):
    """A kind of machine with its profile, for one model and dtype."""

    model_config = ConfigDict(frozen=True)

    name: str
    profile: Profile
    memory_bytes: float
    price: float
    max_nodes: int


def read_hardware(path: Path) -> Hardware:
    """Read a hardware list.

    Raises:
        SettingsError: There is none, or it is not of this form; names what is wrong.
    """
    return read_file(path, Hardware, "a hardware list")


def find_node(kind: NodeKind, tier: Literal[1, 2], model: PlannedModel, kv_dtype: KvDtype) -> Node:
    """Give a kind of machine that can be had its profile.

    Raises:
        SettingsError: There is none, or it is about another tier, model or dtype, or has no memory.
    """
    profile, memory_bytes = find_profile(kind, tier, model, kv_dtype)
    return Node(
        name=profile.node,
        profile=profile,
        memory_bytes=memory_bytes,
        price=kind.price,
        max_nodes=kind.max_nodes,
    )


def find_profile(
    machine: Machine, tier: Literal[1, 2], model: PlannedModel, kv_dtype: KvDtype
) -> tuple[Profile, float]:
    """Give a machine's profile, a file's or the roofline of a device we know, and its memory.

    Raises:
        SettingsError: There is none, or it is about another tier, model or dtype, or has no memory.
    """
    if machine.device.endswith(".json"):
        profile = read_profile(Path(machine.device))
    else:
        profile = roofline(find_device(machine.device), model, kv_dtype)
    check_profile(profile, tier, model, kv_dtype)
    memory_bytes = machine.memory_gib * GIB if machine.memory_gib else profile.memory_bytes
    if memory_bytes is None:
        raise SettingsError(f"the profile of {profile.node} has no memory: give memory_gib")
    return profile, memory_bytes


def check_profile(profile: Profile, tier: int, model: PlannedModel, kv_dtype: str) -> None:
    """See that a profile is about the tier, the model and the dtype it is to be used for.

    Raises:
        SettingsError: It is not.
    """
    if tier == 1:
        if profile.layer is None or profile.model is None:
            raise SettingsError(
                f"the profile of {profile.node} has no times of layers: tier 1 needs them"
            )
        for name, size in profile.model.model_dump().items():
            if size != getattr(model.shape, name):
                raise SettingsError(
                    f"the profile of {profile.node} is of a model with {name} {size}, {model.name} "
                    f"has {getattr(model.shape, name)}: take another profile"
                )
        return
    if profile.attention is None:
        raise SettingsError(f"the profile of {profile.node} has no attention: tier 2 needs it")
    if profile.source == "measured" and profile.dtype != kv_dtype:
        raise SettingsError(
            f"the profile of {profile.node} is of {profile.dtype} keys and values, not {kv_dtype}: "
            "measure it, or plan another dtype"
        )
