"""A release as a replica serves it: its names and defaults, and the test of its golden answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vita.server.backend_settings import BackendSettings
from vita.server.release import ReleaseInfo
from vita.spine.errors import ModelError

if TYPE_CHECKING:
    from vita.server.backends.conformance import Conformance
    from vita.server.replica.request_checks import ServedModel


def served_model(
    release: ReleaseInfo,
    identity: str,
    *,
    folder: Path,
    warnings: Sequence[str],
    conformance: Conformance | None = None,
) -> ServedModel:
    """Return the names and defaults of a release; `conformance` is the result of quantized weights."""
    from vita.infer.content_filter import ContentFilter
    from vita.server.decoding_options import has_batch_invariance
    from vita.server.replica.request_checks import ServedModel
    from vita.spine.config import build

    content = release.content
    backend: dict[str, Any] = {"program": "vita"}
    if conformance is not None:
        backend |= {"quantization": conformance.quantization, "golden": conformance.record()}
    return ServedModel(
        names=(release.name, release.id),
        version=release.id,
        digest=identity,
        created=int(release.created or (folder / "release.json").stat().st_mtime),
        sampling=content.get("sampling") or {},
        guard=build(ContentFilter, content["guard"], where="release.guard") if content.get("guard") else None,
        speculation=content.get("speculation"),
        batch_invariance=has_batch_invariance(content),
        warnings=warnings,
        backend=backend,
    )


def check_golden(
    engine: Any, golden: Sequence[Mapping[str, Any]], settings: BackendSettings | None = None
) -> Conformance | None:
    """Check that the log-probabilities of the golden answers are those of the release, within the tolerance.

    The golden answers were computed in float32. Quantized weights give other numbers: their largest difference is
    returned.
    """
    from vita.server.backends.conformance import Conformance

    settings = settings or BackendSettings()
    answers = [answer for answer in golden if answer.get("prompt") and answer.get("greedy")]
    tolerance, largest = settings.allowed_difference, 0.0
    scores = engine.score([(answer["prompt"], answer["greedy"]) for answer in answers])
    for answer, score in zip(answers, scores, strict=True):
        difference = abs(score.logprob - answer["logprob"]) / len(answer["greedy"])
        # The condition is negated so that NaN fails also.
        if not difference <= tolerance:
            raise _mismatch(settings, expected=answer["logprob"], got=score.logprob, difference=difference)
        largest = max(largest, difference)
    return None if settings.weight_format is None else Conformance(len(answers), largest, tolerance, settings.label)


def _mismatch(settings: BackendSettings, *, expected: float, got: float, difference: float) -> ModelError:
    quantization = settings.weight_format
    hint = "this machine or these libraries give different results"
    if quantization is not None:
        hint = f"{quantization} weights change the answers of this model; use float32, or set `tolerance`"
    return ModelError(
        "release.golden",
        expected=f"log-probability {expected:.4f} of a golden answer (+-{settings.allowed_difference:g} per token)",
        got=f"{got:.4f}, a difference of {difference:.4f} per token",
        hint=hint,
    )
