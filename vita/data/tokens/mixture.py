"""Mixtures: the number of sequences of each source in a training run, exact and independent of the number of processes.

    phases = [MixturePhase(temperature=2, until=0.9), MixturePhase(weights={"wiki": 1, "books": 3})]
    quotas = plan_quotas(phases, {"wiki": 9_000_000, "books": 1_000_000}, context=256, rows=32, steps=1000)

The base weights of a phase are explicit weights, n^(1/T) for sources of n tokens (temperature), or equal (UniMax, Chung
et al. 2023, algorithm 1). Sequences are allocated in proportion to the weights; a source that reaches its limit of
epochs or tokens stays there, and the others share the rest. For equal weights this is UniMax.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np
from jaxtyping import Float64, Int64
from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from vita.data.tokens.allocation import allocate
from vita.spine.config import Settings, unknown_name
from vita.spine.errors import ConfigError

UNIMAX_EPOCHS = 4.0
"""Default limit of UniMax: up to four epochs are almost as good as new text (Muennighoff et al. 2023, fig. 3)."""


class MixturePhase(Settings):
    """The mixture of sources until a share of the training; limits count the tokens of all phases so far."""

    method: Literal["weights", "temperature", "unimax"]
    """`weights`, `temperature` (shares in proportion to n^(1/T) for n tokens) or `unimax` (equal shares with a limit of
    epochs)."""
    weights: dict[str, Annotated[float, Field(ge=0)]] = {}
    """The weight of every source; 0 leaves a source out."""
    temperature: float | None = Field(None, gt=0)
    """T; 1 takes each source in proportion to its size, larger values approach equal shares."""
    max_epochs: float | None = Field(None, gt=0)
    """Maximum number of epochs of a source. Default: 4 for `unimax`, otherwise none."""
    max_tokens: dict[str, Annotated[int, Field(ge=0)]] = {}
    """Maximum number of tokens of single sources."""
    until: float = Field(1.0, gt=0, le=1)
    """Share of the training steps at which the phase ends."""

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"method": value}
        if isinstance(value, dict) and "method" not in value:
            methods = [name for name in ("weights", "temperature") if value.get(name)]
            if len(methods) != 1:
                raise ValueError("a mixture has one of `weights`, `temperature` and `method: unimax`")
            return {**value, "method": methods[0]}
        return value

    @model_validator(mode="after")
    def _complete(self) -> MixturePhase:
        for name, value in (("weights", self.weights), ("temperature", self.temperature)):
            if bool(value) != (self.method == name):
                problem = "needs" if self.method == name else "has no"
                raise ValueError(f"the method `{self.method}` {problem} `{name}`")
        if self.weights and not any(self.weights.values()):
            raise ValueError("one of the weights must be above 0")
        return self

    @property
    def epoch_limit(self) -> float | None:
        return UNIMAX_EPOCHS if self.max_epochs is None and self.method == "unimax" else self.max_epochs


def _as_phases(value: Any) -> Any:
    return value if isinstance(value, (list, tuple)) else [value]


def _in_order(phases: tuple[MixturePhase, ...]) -> tuple[MixturePhase, ...]:
    ends = [phase.until for phase in phases]
    if phases and (ends[-1] != 1 or ends != sorted(set(ends))):
        raise ValueError(f"the phases end at increasing shares and the last one at 1, not at {ends}")
    return phases


Mixture = Annotated[tuple[MixturePhase, ...], BeforeValidator(_as_phases), AfterValidator(_in_order)]
"""One phase, or a list of phases whose `until` increase to 1."""


def plan_quotas(
    mixture: Sequence[MixturePhase], sizes: Mapping[str, int], *, context: int, rows: int, steps: int
) -> Int64[np.ndarray, "phases sources"]:
    """Return the sequences of each source in each phase; `sizes` are the tokens of the sources.

    The sequences of all phases are `rows * steps`. Sources that the limits exhaust are an error.
    """
    used_sequences = np.zeros(len(sizes), np.int64)
    quotas, begin = [], 0
    for number, phase in enumerate(mixture):
        end = round(phase.until * steps)
        where = "pretrain.mixture" if len(mixture) == 1 else f"pretrain.mixture.{number}"
        weights = _base_weights(phase, sizes, where=where)
        limits = _limits(phase, sizes, context=context, where=where) - used_sequences
        quota = allocate(weights, np.maximum(limits, 0), (end - begin) * rows)
        if quota is None:
            _refuse_exhausted(sizes, weights, limits, context=context, sequences=(end - begin) * rows, where=where)
        assert quota is not None
        quotas.append(quota)
        used_sequences, begin = used_sequences + quota, end
    return np.stack(quotas)


def _base_weights(phase: MixturePhase, sizes: Mapping[str, int], *, where: str) -> Float64[np.ndarray, "S"]:
    if phase.method == "weights":
        for name in phase.weights:
            if name not in sizes:
                raise unknown_name(f"{where}.weights", name, sizes)
        if missing := [name for name in sizes if name not in phase.weights]:
            hint = "0 leaves a source out"
            raise ConfigError(f"{where}.weights", f"has no weight of {', '.join(missing)}", hint=hint)
        return np.array([phase.weights[name] for name in sizes])
    if phase.method == "temperature":
        assert phase.temperature is not None, "checked by the settings"
        return np.array(list(sizes.values()), np.float64) ** (1 / phase.temperature)
    return np.ones(len(sizes))


def _limits(phase: MixturePhase, sizes: Mapping[str, int], *, context: int, where: str) -> Int64[np.ndarray, "S"]:
    """Return the largest number of sequences of each source."""
    for name in phase.max_tokens:
        if name not in sizes:
            raise unknown_name(f"{where}.max_tokens", name, sizes)
    unlimited = np.iinfo(np.int64).max // 2
    limits = []
    for name, size in sizes.items():
        epochs = unlimited if phase.epoch_limit is None else int(phase.epoch_limit * size) // context
        limits.append(min(epochs, phase.max_tokens.get(name, unlimited) // context))
    return np.array(limits, np.int64)


def _refuse_exhausted(
    sizes: Mapping[str, int],
    weights: Float64[np.ndarray, "S"],
    limits: Int64[np.ndarray, "S"],
    *,
    context: int,
    sequences: int,
    where: str,
) -> None:
    available = {
        name: int(limit) * context for name, weight, limit in zip(sizes, weights, limits, strict=True) if weight
    }
    parts = ", ".join(f"{name} {max(tokens, 0):,}" for name, tokens in available.items())
    total = sum(max(tokens, 0) for tokens in available.values())
    problem = f"takes {sequences * context:,} tokens, and the limits leave {total:,}: {parts}"
    raise ConfigError(where, problem, hint="raise `max_epochs` or `max_tokens`, or reduce the steps")
