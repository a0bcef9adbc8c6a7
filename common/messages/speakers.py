"""Who may say what: the roles that each message can come from, where a key proves the role."""

from collections.abc import Mapping
from typing import Final, Literal, get_args

from common.errors import WireError
from common.ids import ROUTER_ID, WorkerId
from common.messages.base import Message
from common.messages.kv import (
    PagesFilled,
    PagesReleased,
    PagesReserved,
    PoolsCounted,
    PrefixAwaited,
    ReleasePages,
    ReservePages,
    ReserveRefused,
    SpeedsMeasured,
    Tables,
    TablesWanted,
)
from common.messages.member import (
    Drain,
    DrainWanted,
    Heartbeat,
    Register,
    Registered,
    RegisterRefused,
    Role,
    RouterHeartbeat,
    WorkerJoined,
    WorkerLeaving,
    WorkerLost,
    WorkerReady,
)
from common.messages.step import (
    AttentionRequest,
    AttentionResult,
    ForwardMicrobatch,
    HiddenStates,
    SampledTokens,
    StepFailed,
    WriteRequest,
    Written,
)

Speaker = Literal["router", "layer_worker", "attention_worker", "kv_manager"]
"""A role that has a key pair of its own."""

ROLES: Final[tuple[Speaker, ...]] = get_args(Speaker)

_ROUTER: Final[frozenset[Speaker]] = frozenset({"router"})
_WORKERS: Final[frozenset[Speaker]] = frozenset(get_args(Role))
_LAYER: Final[frozenset[Speaker]] = frozenset({"layer_worker"})
_ATTENTION: Final[frozenset[Speaker]] = frozenset({"attention_worker"})
_KV: Final[frozenset[Speaker]] = frozenset({"kv_manager"})

SPEAKERS: Final[Mapping[type[Message], frozenset[Speaker]]] = {
    **dict.fromkeys((Register, WorkerReady, Heartbeat), _WORKERS),
    DrainWanted: _LAYER | _ATTENTION,
    **dict.fromkeys((Registered, RegisterRefused, RouterHeartbeat), _ROUTER),
    **dict.fromkeys((Drain, WorkerJoined, WorkerLeaving), _ROUTER),
    WorkerLost: _WORKERS | _ROUTER,
    **dict.fromkeys((ReservePages, PagesFilled, ReleasePages, SpeedsMeasured, Tables), _ROUTER),
    **dict.fromkeys(
        (PagesReserved, PrefixAwaited, ReserveRefused, PagesReleased, PoolsCounted, TablesWanted),
        _KV,
    ),
    ForwardMicrobatch: _ROUTER,
    **dict.fromkeys((HiddenStates, AttentionRequest, WriteRequest, SampledTokens), _LAYER),
    **dict.fromkeys((AttentionResult, Written), _ATTENTION),
    StepFailed: _LAYER | _ATTENTION,
}
"""By message: the roles that it is one of the words of."""


def demand_may_say(role: Speaker, sender: WorkerId, message: Message) -> None:
    """Refuse what is not for this role to say.

    Args:
        role: Proven by the sender's key.
        sender: The name that the sender gives itself.
        message: What it says.

    Raises:
        WireError: Another role's word, the router's name, or a role that the key does not give.
    """
    claimed = message.role if isinstance(message, Register) else role
    if (
        role not in SPEAKERS[type(message)]
        or claimed != role
        or (sender == ROUTER_ID) != (role == "router")
    ):
        raise WireError(f"{message.TAG} as {sender} with the key of a {role}", kind="role")
