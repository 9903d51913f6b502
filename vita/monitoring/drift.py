"""Drift of the prompts in the request log of a service, measured against a reference.

    reference = DriftReference.of(prompt_features(engine, texts), seed=0); reference.save(folder)
    prompts = new_prompts(ledger, service="cat", model=digest, after=0, limit=500, seed=0)
    check = measure_drift(reference, prompt_features(engine, prompts.texts), earlier_checks, seed=1)

A random half of the reference defines the scores of prompts; the other half calibrates the test. Only prompts that were
stored with consent are read. References and checks contain no texts.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa
from jaxtyping import Float, Int

from vita.infer.prompt_features import PromptFeatures
from vita.monitoring.request_log import requests
from vita.spine.errors import DataError
from vita.spine.ledger import Ledger
from vita.stats.drift import DriftTest, distances, energy_shift
from vita.stats.intervals import Interval, difference, student

NEIGHBORS = 5
"""The novelty of a prompt is its mean distance to this number of nearest reference prompts."""
LEAST_REFERENCE = 40
REFERENCE_FILE = "reference.safetensors"
COMPONENTS = 6
"""Number of principal components of the basis, along which prompts may shift."""


@dataclass(frozen=True)
class DriftReference:
    """The features of the prompts that a release is meant for."""

    features: PromptFeatures
    basis: Int[np.ndarray, "K"]
    """The prompts that define the scores; the others calibrate the test."""
    components: Float[np.ndarray, "C D"]
    """The first principal components of the scaled embeddings of the basis."""

    @classmethod
    def of(cls, features: PromptFeatures, *, seed: int) -> DriftReference:
        """Create a reference with a random basis."""
        count = len(features.logprobs)
        if count < LEAST_REFERENCE:
            raise DataError("reference", expected=f"at least {LEAST_REFERENCE} prompts", got=count)
        basis = np.random.default_rng(seed).permutation(count)[: count // 2]
        embeddings = features.embeddings[basis]
        components = np.linalg.svd(_scaled(embeddings, embeddings), full_matrices=False)[2][:COMPONENTS]
        return cls(features, np.sort(basis).astype(np.int64), components)

    def save(self, folder: Path) -> None:
        """Write the reference to a folder."""
        from safetensors.numpy import save_file

        arrays = {"embeddings": self.features.embeddings, "logprobs": self.features.logprobs, "basis": self.basis}
        save_file({**arrays, "components": np.ascontiguousarray(self.components)}, folder / REFERENCE_FILE)

    @classmethod
    def load(cls, folder: Path) -> DriftReference:
        """Read the reference of a folder."""
        from safetensors.numpy import load_file

        arrays = load_file(folder / REFERENCE_FILE)
        return cls(PromptFeatures(arrays["embeddings"], arrays["logprobs"]), arrays["basis"], arrays["components"])

    def scores(self, features: PromptFeatures) -> dict[str, list[float]]:
        """Return the scores of prompts, which depend on the basis alone.

        They are the distance to the nearest prompts of the basis, the negative log-probability per token, and the
        positions along the principal components of the basis. Six digits are enough to order them, and the ledger
        stores them.
        """
        embeddings = self.features.embeddings[self.basis]
        basis, points = _scaled(embeddings, embeddings), self.scaled(features)
        nearest = np.partition(distances(points, basis), NEIGHBORS - 1, axis=1)[:, :NEIGHBORS]
        positions = {f"component {number}": row for number, row in enumerate(self.components @ points.T, 1)}
        scores = {"novelty": nearest.mean(1), "surprise": -features.logprobs, **positions}
        return {name: [float(f"{value:.6g}") for value in values] for name, values in scores.items()}

    def calibration(self) -> dict[str, list[float]]:
        """Return the scores of the prompts outside of the basis."""
        rest = np.setdiff1d(np.arange(len(self.features.logprobs)), self.basis)
        return self.scores(PromptFeatures(self.features.embeddings[rest], self.features.logprobs[rest]))

    def scaled(self, features: PromptFeatures) -> Float[np.ndarray, "N D"]:
        """Return embeddings in units of the standard deviation of the basis per dimension."""
        return _scaled(features.embeddings, self.features.embeddings[self.basis])


def _scaled(embeddings: Float[np.ndarray, "N D"], basis: Float[np.ndarray, "K D"]) -> Float[np.ndarray, "N D"]:
    basis = basis.astype(np.float64)
    return (embeddings - basis.mean(0)) / np.maximum(basis.std(0), 1e-6)


@dataclass(frozen=True)
class DriftMeasurement:
    """The result of one check."""

    prompt_drift: Interval
    """Energy distance of the embeddings, in units of the mean distance in the reference."""
    logprob_shift: Interval
    """Difference of the mean log-probability per token, in nats; negative if prompts are more surprising."""
    p_value: float
    """P-value of all checks together: at most `a` with a probability of at most `a`, without drift."""
    state: dict[str, Any]

    def figures(self) -> dict[str, Any]:
        """Return the figures as plain values."""
        intervals = {"prompt_drift": self.prompt_drift.as_json(), "logprob_shift": self.logprob_shift.as_json()}
        return {**intervals, "drift_p_value": self.p_value}


def measure_drift(
    reference: DriftReference, features: PromptFeatures, earlier: Sequence[dict[str, Any]], *, seed: int
) -> DriftMeasurement:
    """Compare prompts with the reference; `earlier` are the states of the earlier checks with it."""
    prompt_drift = energy_shift(reference.scaled(reference.features), reference.scaled(features), seed=seed)
    before, now = (student(values.tolist()) for values in (reference.features.logprobs, features.logprobs))
    p_value, state = drift_test(reference, features, earlier, seed=seed)
    return DriftMeasurement(prompt_drift, difference(now, before), p_value, state)


def drift_test(
    reference: DriftReference, features: PromptFeatures, earlier: Sequence[dict[str, Any]], *, seed: int
) -> tuple[float, dict[str, Any]]:
    """Return the p-value of all checks together and the new state; `earlier` are the states of the earlier checks."""
    calibration, scores = reference.calibration(), reference.scores(features)
    state: dict[str, Any] = {}
    p_values = []
    for number, name in enumerate(scores):
        test = DriftTest(calibration[name])
        if earlier:
            test.restore(earlier[-1][name], [score for check in earlier for score in check[name]["scores"]])
        p_values.append(test.look(scores[name], seed=100 * seed + number))
        state[name] = {**test.state(), "scores": scores[name]}
    return min(1.0, len(scores) * min(p_values)), state  # corrected for the number of tests (Bonferroni)


@dataclass(frozen=True)
class LoggedPrompts:
    """Prompts of the request log, in the order of their arrival."""

    texts: list[str]
    last: int
    """Id of the last row that was considered."""


def new_prompts(
    ledger: Ledger, *, service: str | None, model: str | None, after: int, limit: int, seed: int
) -> LoggedPrompts:
    """Return a random sample of the prompts that were logged with consent after the row with the id `after`.

    Prompts of requests that are limited to regions are left out: the region of the store and of this host is unknown.
    """
    query = sa.select(requests.c.id).where(
        requests.c.has_content.is_(True), requests.c.consent.is_(True), requests.c.id > after
    )
    for column, value in ((requests.c.service, service), (requests.c.model, model)):
        if value is not None:
            query = query.where(column == value)
    with ledger.transaction() as database:
        numbers = list(database.execute(query.order_by(requests.c.id)).scalars())
        sample = sorted(random.Random(seed).sample(numbers, limit)) if len(numbers) > limit else numbers
        texts = []
        for start in range(0, len(sample), 500):
            part = sa.select(requests.c.asked, requests.c.figures)
            part = part.where(requests.c.id.in_(sample[start : start + 500])).order_by(requests.c.id)
            rows = database.execute(part).all()
            texts += [_prompt(asked) for asked, figures in rows if not figures.get("regions")]
    return LoggedPrompts([text for text in texts if text], max(numbers, default=after))


def logged_models(ledger: Ledger, *, service: str) -> dict[str, str]:
    """Return model digest -> version of the models that answered requests whose prompts were logged."""
    query = sa.select(requests.c.model, requests.c.version).where(
        requests.c.service == service, requests.c.has_content.is_(True), requests.c.model != ""
    )
    with ledger.transaction() as database:
        return {row.model: row.version for row in database.execute(query.distinct())}


def _prompt(asked: Any) -> str:
    """Return the last message of the user, or the prompt of a completion; "" for other requests."""
    messages = asked.get("messages")
    if isinstance(messages, list):
        contents = [message.get("content") for message in messages if message.get("role") == "user"]
        return contents[-1].strip() if contents and isinstance(contents[-1], str) else ""
    prompt = asked.get("prompt")
    return prompt.strip() if isinstance(prompt, str) else ""
