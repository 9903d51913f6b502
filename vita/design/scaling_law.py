"""Scaling laws: the held-out loss that a number of parameters and an amount of text lead to.

    law = LAWS["english"]
    law.bits_per_byte(parameters=4_000_000, text_bytes=20e6)
    law.interval(parameters=4_000_000, text_bytes=20e6)      # with its 95 % prediction interval

`vita scaling` fits a law to runs on the user's text (`law_fit`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vita.spine.errors import ConfigError
from vita.stats.intervals import Interval

REFERENCE_PARAMETERS, REFERENCE_BYTES = 5e6, 20e6
"""The model size and the amount of text for which the terms of a law are stated."""
WORST = 8.0
"""Bits per byte of a uniform prediction, the upper limit."""
UNCERTAINTY_PER_FACTOR = 0.03
"""Additional uncertainty for each factor of e between the text size of a plan and 20 MB."""


@dataclass(frozen=True, slots=True)
class LawTerms:
    """Held-out bits per byte: floor + capacity term + data term (Hoffmann et al. 2022, eq. 2).

    Data is measured in bytes of text instead of tokens, so that the law is independent of the vocabulary.
    """

    floor: float
    """Irreducible bits per byte."""
    size_bits: float
    """Capacity term of a model with 5 million matrix parameters, in bits per byte."""
    size_power: float
    """Exponent of the capacity term."""
    data_bits: float
    """Data term after 20 MB of text, in bits per byte."""
    data_power: float
    """Exponent of the data term."""

    def bits_per_byte(self, parameters: float, text_bytes: float) -> float:
        """Evaluate the law."""
        size = self.size_bits * (parameters / REFERENCE_PARAMETERS) ** -self.size_power
        return self.floor + size + self.data_bits * (text_bytes / REFERENCE_BYTES) ** -self.data_power


@dataclass(frozen=True, slots=True)
class ScalingLaw(LawTerms):
    """A law with a stated uncertainty."""

    uncertainty: float
    """Half the width of the 95 % range, relative to the prediction, for similar text and settings."""

    def interval(self, parameters: float, text_bytes: float) -> Interval:
        """Return the predicted bits per byte of a run with the 95 % prediction interval."""
        value = min(self.bits_per_byte(parameters, text_bytes), WORST)
        uncertainty = self.uncertainty + UNCERTAINTY_PER_FACTOR * abs(math.log(text_bytes / REFERENCE_BYTES))
        return Interval(value, value * (1 - min(uncertainty, 0.9)), min(value * (1 + uncertainty), WORST), 0)


@dataclass(frozen=True, slots=True)
class FittedLaw(LawTerms):
    """A law that was fitted to runs, with the fits to bootstrap samples of these runs."""

    draws: tuple[LawTerms, ...]
    """The law fitted to each bootstrap sample."""
    residuals: tuple[float, ...]
    """The differences between the logarithms of the actual and the fitted bits per byte, of all runs."""

    def interval(self, parameters: float, text_bytes: float) -> Interval:
        """Return the predicted bits per byte of a run with the 95 % prediction interval.

        The interval covers the uncertainty of the fit and the noise of one run: each draw of the law is combined with
        each residual.
        """
        value = min(self.bits_per_byte(parameters, text_bytes), WORST)
        draws = np.array([draw.bits_per_byte(parameters, text_bytes) for draw in self.draws])
        outcomes = np.outer(draws, np.exp(self.residuals)).ravel()
        low, high = np.quantile(outcomes, (0.025, 0.975)).tolist()
        return Interval(value, min(low, value), min(max(high, value), WORST), len(self.residuals))

    def as_json(self) -> dict[str, Any]:
        """Return the law as plain values, for `law.json`."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> FittedLaw:
        """Read the values of `as_json`."""
        draws = tuple(LawTerms(**draw) for draw in values["draws"])
        return cls(**{**values, "draws": draws, "residuals": tuple(values["residuals"])})


Law = ScalingLaw | FittedLaw

LAWS = {
    "english": ScalingLaw(
        floor=0.86, size_bits=0.243, size_power=0.30, data_bits=0.60, data_power=0.30, uncertainty=0.10
    ),
    "world": ScalingLaw(
        floor=0.20, size_bits=0.015, size_power=0.30, data_bits=0.02, data_power=0.60, uncertainty=0.15
    ),
}
"""Laws by kind of text: English (encyclopedia and books), and the built-in world, which is far more predictable.

They are fitted to few runs, listed in docs/experiments.md: English from 1 to 76 MB of text at 1M to 5M matrix
parameters, the world at one size; the exponents are close to those of larger studies. `uncertainty` accounts for this.
"""


def read_law(path: Path) -> FittedLaw:
    """Read the `law` of a file that `vita scaling` wrote; raise a `ConfigError` for any other file."""
    try:
        return FittedLaw.from_json(json.loads(path.read_text(encoding="utf-8"))["law"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        hint = "`vita scaling DATA --budget C` writes one"
        got = str(error) or type(error).__name__
        raise ConfigError(str(path), expected="a law.json of `vita scaling`", got=got, hint=hint) from None
