"""The engine that computes nothing: a visit takes the time that a profile gives it."""

from itertools import islice

import numpy as np

from common.errors import SettingsError
from common.messages import LayerRole, Tensor
from common.messages.entries import positions, sampled_rows
from common.model_spec import ModelSpec
from common.policy.profile import LayerTimes, Profile
from common.runtime.emulation import EmulatedTime, Zeros
from services.layer_worker.work import (
    Advance,
    Begin,
    End,
    LayerBegun,
    LoadRange,
    RangeEnded,
    RangeLoaded,
    TokensChosen,
    Work,
)

_NUM_TOKENS = 7
"""Tokens that take turns."""


class EmulatedLayerEngine:
    """Gives zeros of the right shapes after the right time, and tokens that end no request."""

    def __init__(self, spec: ModelSpec, profile: Profile, time: EmulatedTime) -> None:
        """Take the place of a real engine.

        Raises:
            SettingsError: The profile is not about layers, or not about layers of this shape.
        """
        self._times = _times_of(profile, spec)
        self._spec = spec
        self._time = time
        self._zeros = Zeros()
        self._role: LayerRole | None = None
        harmless = (each for each in range(spec.vocab_size) if each not in spec.eos_token_ids)
        self._tokens = np.array([*islice(harmless, _NUM_TOKENS)], np.int32)

    def compute(self, work: Work) -> RangeLoaded | LayerBegun | RangeEnded | TokensChosen:
        """Do one piece of work; what a visit carries is its number of rows."""
        match work:
            case LoadRange(role=role):
                self._role = role
                return RangeLoaded(role=role)
            case Begin(arrived=arrived):
                num_rows = arrived.shape[0]
                return self._begin_layer(work, num_rows, self._times.pre(num_rows))
            case Advance(carry=num_rows):
                seconds = self._times.post(num_rows) + self._times.pre(num_rows)
                return self._begin_layer(work, num_rows, seconds)
            case End(sampling=None, carry=num_rows):
                return RangeEnded(
                    microbatch_id=work.microbatch_id,
                    hidden=self._activations(num_rows, self._spec.hidden_size),
                    engine_s=self._time.spend(self._times.post(num_rows)),
                )
            case End():
                return self._choose(work)

    def _begin_layer(self, work: Begin | Advance, num_rows: int, seconds: float) -> LayerBegun:
        return LayerBegun(
            microbatch_id=work.microbatch_id,
            carry=num_rows,
            qkv=self._activations(num_rows, self._spec.qkv_size),
            written_kv=self._activations(num_rows, 2 * self._spec.kv_size),
            engine_s=self._time.spend(seconds),
        )

    def _choose(self, work: End) -> TokensChosen:
        """Let a token depend on its position alone."""
        assert work.sampling, "only the last range has tokens to choose"
        entries = work.entries.numpy()
        places = positions(entries)[sampled_rows(entries)]  # [S]
        size = len(places)
        num_alternatives = max(0, int(work.sampling.ints.numpy()[:, 1].max(initial=0)) - 1)
        return TokensChosen(
            microbatch_id=work.microbatch_id,
            tokens=Tensor.of(self._tokens[places % len(self._tokens)]),
            finite=Tensor.of(np.ones(size, np.int8)),
            logprobs=self._zeros.tensor("fp32", size),
            top_tokens=self._zeros.tensor("int32", size, num_alternatives),
            top_logprobs=self._zeros.tensor("fp32", size, num_alternatives),
            engine_s=self._time.spend(self._times.post(size) + self._times.classify(size)),
        )

    def _activations(self, num_rows: int, width: int) -> Tensor:
        assert self._role, "the state computes only once the range is loaded"
        return self._zeros.tensor(self._role.dtype, num_rows, width)


def _times_of(profile: Profile, spec: ModelSpec) -> LayerTimes:
    if profile.layer is None or profile.model is None:
        raise SettingsError(f"the profile of {profile.node} has no times of layers: take another")
    for name, size in profile.model.model_dump().items():
        if size != getattr(spec, name):
            raise SettingsError(
                f"the profile of {profile.node} is of a model with {name} {size}, "
                f"this one has {getattr(spec, name)}: take another profile"
            )
    return profile.layer
