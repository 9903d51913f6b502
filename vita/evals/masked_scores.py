"""The figures of an encoder on held-out text: masked accuracy and loss, and pseudo-perplexity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vita.stats.intervals import Interval, bootstrap_ratio


@dataclass(frozen=True, slots=True)
class MaskedDocument:
    """The predictions of the masked tokens of one document."""

    id: str
    source: str
    masked: int
    correct: int
    nats: float

    def as_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "source": self.source,
            "masked": self.masked,
            "correct": self.correct,
            "nats": round(self.nats, 4),
        }


def masked_figures(scores: Sequence[MaskedDocument], *, seed: int = 0) -> dict[str, Interval]:
    """Return accuracy and loss in nats per masked token; the intervals resample documents."""
    counts = [score.masked for score in scores]
    return {
        "masked_accuracy": bootstrap_ratio([score.correct for score in scores], counts, seed=seed),
        "masked_loss": bootstrap_ratio([score.nats for score in scores], counts, seed=seed),
    }


def pseudo_figures(bits: Interval, perplexity: Interval) -> dict[str, Interval]:
    """Return the figures of pseudo-likelihoods under names of their own, because they are no compression."""
    return {"pseudo_bits_per_byte": bits, "pseudo_perplexity": perplexity}
