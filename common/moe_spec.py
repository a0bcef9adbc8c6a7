"""Which layers of a model have experts, how many, and what a checkpoint calls them."""

from dataclasses import dataclass

from common.config_json import ConfigJson
from common.errors import ModelRefused


@dataclass(frozen=True, slots=True, kw_only=True)
class MoeSpec:
    """A mixture of experts: a router sends each row through a few of many gated MLPs."""

    layers: tuple[int, ...]
    """Those that have experts; the others have one MLP."""

    num_experts: int
    num_chosen: int
    """Experts that a row goes through."""

    intermediate_size: int
    """Inner size of one expert."""

    normalized: bool
    """The chosen experts' probabilities are scaled to a sum of 1."""

    block: str
    """What the checkpoint calls the router and the experts together."""

    projections: tuple[str, str, str]
    """What it calls an expert's gate, up and down."""


def read_moe_spec(config: ConfigJson, family: str, num_layers: int) -> MoeSpec | None:
    """Read the experts of a model's config; None if the model is dense.

    Raises:
        ModelRefused: The config is damaged.
    """
    match family:
        case "mixtral":
            spec = MoeSpec(
                layers=tuple(range(num_layers)),
                num_experts=config.integer("num_local_experts", 8),
                num_chosen=config.integer("num_experts_per_tok", 2),
                intermediate_size=config.integer("intermediate_size"),
                normalized=True,
                block="block_sparse_moe",
                projections=("w1", "w3", "w2"),
            )
        case "qwen3_moe":
            spec = MoeSpec(
                layers=_read_layers(config, num_layers),
                # The key of checkpoints that transformers 5 wrote, then the older one.
                num_experts=config.integer("num_local_experts", config.integer("num_experts", 128)),
                num_chosen=config.integer("num_experts_per_tok", 8),
                intermediate_size=config.integer("moe_intermediate_size", 768),
                normalized=config.flag("norm_topk_prob"),
                block="mlp",
                projections=("gate_proj", "up_proj", "down_proj"),
            )
        case _:
            return None
    if spec.num_chosen > spec.num_experts:
        raise ModelRefused(
            f"{config.name}: a token cannot go through {spec.num_chosen} of {spec.num_experts} "
            "experts"
        )
    return spec


def _read_layers(config: ConfigJson, num_layers: int) -> tuple[int, ...]:
    step = config.integer("decoder_sparse_step", 1)
    dense = config.fields.get("mlp_only_layers") or []
    if not isinstance(dense, list):
        raise ModelRefused(f"{config.name}: mlp_only_layers is not a list")
    return tuple(
        layer for layer in range(num_layers) if (layer + 1) % step == 0 and layer not in dense
    )
