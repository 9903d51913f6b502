"""A release as a replica serves it: its names and defaults, and the test of its golden answers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vita.server.release import ReleaseInfo
from vita.spine.errors import ModelError

if TYPE_CHECKING:
    from vita.server.replica.request_checks import ServedModel

GOLDEN_TOLERANCE = 0.01
"""Allowed difference of a token's log-probability between two kinds of processor."""


def served_model(release: ReleaseInfo, identity: str, *, folder: Path, warnings: Sequence[str]) -> ServedModel:
    """Return the names and defaults of a release."""
    from vita.infer.content_filter import ContentFilter
    from vita.server.replica.request_checks import ServedModel
    from vita.spine.config import build

    content = release.content
    return ServedModel(
        names=(release.name, release.id),
        version=release.id,
        digest=identity,
        created=int(release.created or (folder / "release.json").stat().st_mtime),
        sampling=content.get("sampling") or {},
        guard=build(ContentFilter, content["guard"], where="release.guard") if content.get("guard") else None,
        speculation=content.get("speculation"),
        warnings=warnings,
    )


def check_golden(engine: Any, golden: list[dict[str, Any]]) -> None:
    """Check that the log-probabilities of the golden answers are the same as at the release."""
    answers = [answer for answer in golden if answer.get("prompt") and answer.get("greedy")]
    scores = engine.score([(answer["prompt"], answer["greedy"]) for answer in answers])
    for answer, score in zip(answers, scores, strict=True):
        # The condition is negated so that NaN fails also.
        if not abs(score.logprob - answer["logprob"]) <= GOLDEN_TOLERANCE * len(answer["greedy"]):
            raise ModelError(
                "release.golden",
                expected=f"log-probability {answer['logprob']:.4f} of a golden answer",
                got=round(score.logprob, 4),
                hint="this machine or these libraries give different results",
            )
