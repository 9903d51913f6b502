"""Sampling parameters: temperature, top-k, top-p, maximum length and stop sequences."""

from __future__ import annotations

import random
from typing import Annotated

from pydantic import Field

from vita.spine.config import Settings


class Sampling(Settings):
    """The sampling parameters of one answer."""

    temperature: float = Field(default=1.0, ge=0)
    """Sampling temperature; below 1 likely tokens get likelier, and 0 is greedy decoding."""
    top_k: int = Field(default=0, ge=0)
    """Number of the most likely tokens that are sampled from; 0 for all."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Cumulative probability of the most likely tokens that are sampled from (Holtzman et al. 2020); 1 for all."""
    max_tokens: int = Field(default=64, ge=1)
    """Maximum tokens of an answer."""
    seed: int = Field(default=0, ge=0)
    """Seed; the same seed gives the same answer."""
    stop: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """Texts before which generation stops."""

    def varied(self, count: int) -> list[Sampling]:
        """Return `count` copies with different seeds, for several answers to one prompt."""
        chance = random.Random(self.seed)
        return [self.model_copy(update={"seed": chance.getrandbits(48)}) for _ in range(count)]
