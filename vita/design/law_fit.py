"""Fit of a scaling law to training runs, with bootstrap samples, and the optimum of each compute budget.

    runs = [MeasuredLoss(parameters=430_000, text_bytes=2.4e6, flops=6e12, bits_per_byte=2.31), ...]
    law = fit_law(runs, seed=0)
    optima(runs)                      # minimum of the parabola of each budget

The fit minimizes the Huber loss of the log residuals (Hoffmann et al. 2022, sec. 3.3). A ladder has few runs, and the
law has five parameters. Weak priors therefore keep the exponents near those of large studies where the runs do not
determine them.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from vita.design.scaling_law import REFERENCE_BYTES, REFERENCE_PARAMETERS, FittedLaw, LawTerms
from vita.spine.errors import DataError

HUBER_DELTA = 1e-3
"""Residual beyond which the loss is linear (Hoffmann et al. 2022)."""
EXPONENTS = (0.34, 0.28)
"""Exponents of size and data of Hoffmann et al. (2022), the centres of the priors."""
PRIOR_DEVIATION = 0.5
"""Standard deviation of the priors of the logarithms of the exponents: a factor of 1.65."""
RUN_NOISE = 0.005
"""Standard deviation of the log residual of a run, which weights the priors against the data."""
MIN_RUNS = 6
"""Minimum number of runs, one more than the law has parameters."""
SAMPLES = 200
"""Number of bootstrap samples."""
_ITERATIONS = 300
_FLOOR, _SIZE, _DATA, _SIZE_POWER, _DATA_POWER = range(5)


@dataclass(frozen=True)
class MeasuredLoss:
    """The held-out loss of one run."""

    parameters: int
    """Number of matrix parameters."""
    text_bytes: float
    """Bytes of training text; repeated text counts less (`effective_tokens`)."""
    flops: float
    bits_per_byte: float


def fit_law(runs: Sequence[MeasuredLoss], *, seed: int = 0, samples: int = SAMPLES) -> FittedLaw:
    """Fit the law to runs, and to `samples` bootstrap samples of their residuals.

    The residuals of a bootstrap sample are enlarged by the degrees of freedom of the fit. Raises a `DataError` for
    fewer than `MIN_RUNS` runs, for runs that are not finite, and for runs of one size or one amount of text.
    """
    _check(runs)
    sizes = np.array([run.parameters for run in runs], float)
    texts = np.array([run.text_bytes for run in runs], float)
    losses = np.log([run.bits_per_byte for run in runs])
    centre = math.exp(np.log(sizes).mean()), math.exp(np.log(texts).mean())
    problem = _Problem(np.log(sizes / centre[0]), np.log(texts / centre[1]))
    starts = _starts(losses)
    solutions, objectives = problem.minimize(starts, np.tile(losses, (len(starts), 1)))
    best = solutions[int(np.argmin(objectives))]
    fitted = problem.predict(best[None])[0]
    residuals = (losses - fitted) * math.sqrt(len(runs) / max(1, len(runs) - 5))
    generator = np.random.default_rng(seed)
    resampled = fitted + generator.choice(residuals, (samples, len(runs)))
    draws, _ = problem.minimize(np.tile(best, (samples, 1)), resampled)
    terms = [_terms(draw, centre) for draw in draws]
    law = _terms(best, centre)
    return FittedLaw(
        law.floor, law.size_bits, law.size_power, law.data_bits, law.data_power,
        draws=tuple(terms), residuals=tuple(residuals.tolist()),
    )  # fmt: skip


def left_out_errors(runs: Sequence[MeasuredLoss]) -> list[float]:
    """Return the relative error of the prediction of each run by the law that is fitted to the other sizes.

    All runs of a size are left out together. Sizes without which fewer than `MIN_RUNS` runs remain are omitted.
    """
    errors: list[float] = []
    for size in sorted({run.parameters for run in runs}):
        others = [run for run in runs if run.parameters != size]
        if len(others) < MIN_RUNS or len({run.parameters for run in others}) < 2:
            continue
        law = fit_law(others, samples=1)
        left_out = [run for run in runs if run.parameters == size]
        errors += [law.bits_per_byte(run.parameters, run.text_bytes) / run.bits_per_byte - 1 for run in left_out]
    return errors


def _check(runs: Sequence[MeasuredLoss]) -> None:
    where = "scaling law"
    if len(runs) < MIN_RUNS:
        raise DataError(where, expected=f"at least {MIN_RUNS} runs", got=len(runs), hint="add budgets or sizes")
    if wrong := [run for run in runs if not math.isfinite(run.bits_per_byte) or run.bits_per_byte <= 0]:
        raise DataError(where, expected="a positive finite loss of each run", got=wrong[0].bits_per_byte)
    quantities = {"sizes": {run.parameters for run in runs}, "amounts of text": {run.text_bytes for run in runs}}
    for name, values in quantities.items():
        if len(values) < 2:
            raise DataError(where, expected=f"runs with at least two {name}", got="one", hint="add budgets or sizes")


def _starts(losses: Float[np.ndarray, "runs"]) -> Float[np.ndarray, "starts 5"]:
    """Return initial values: shares of the floor in the lowest loss, and exponents."""
    lowest = math.exp(losses.min())
    grid = itertools.product((0.2, 0.5, 0.8), (0.15, 0.34, 0.7), (0.15, 0.28, 0.7))
    rows = []
    for share, size_power, data_power in grid:
        rest = math.log(lowest * (1 - share) / 2)
        rows.append([math.log(lowest * share), rest, rest, math.log(size_power), math.log(data_power)])
    return np.array(rows)


def _terms(values: Float[np.ndarray, "5"], centre: tuple[float, float]) -> LawTerms:
    """Convert logarithms relative to the centre of the runs to the terms of a law at its reference."""
    floor, size, data, size_power, data_power = np.exp(values).tolist()
    return LawTerms(
        floor=floor,
        size_bits=size * (REFERENCE_PARAMETERS / centre[0]) ** -size_power,
        size_power=size_power,
        data_bits=data * (REFERENCE_BYTES / centre[1]) ** -data_power,
        data_power=data_power,
    )


class _Problem:
    """The fits of many sets of losses at the same sizes and texts, by the Levenberg-Marquardt method.

    The parameters are logarithms: of the floor, of both terms at the centre of the runs, and of both exponents. The
    Huber loss is minimized by reweighting: a residual beyond delta has the weight delta / |residual|.
    """

    def __init__(self, sizes: Float[np.ndarray, "runs"], texts: Float[np.ndarray, "runs"]) -> None:
        self._sizes, self._texts = sizes, texts
        # The linear part of the Huber loss of a usual residual is delta * noise; a prior has that scale.
        self._prior_weight = HUBER_DELTA * RUN_NOISE / PRIOR_DEVIATION**2

    def predict(self, values: Float[np.ndarray, "k 5"]) -> Float[np.ndarray, "k runs"]:
        """Return the logarithm of the loss of each run."""
        return np.log(sum(self._parts(values)))

    def minimize(
        self, starts: Float[np.ndarray, "k 5"], losses: Float[np.ndarray, "k runs"]
    ) -> tuple[Float[np.ndarray, "k 5"], Float[np.ndarray, "k"]]:
        """Return the solution of each fit and its objective."""
        values, objective = starts.copy(), self._objective(starts, losses)
        damping = np.full(len(starts), 1e-3)
        for _ in range(_ITERATIONS):
            gradient, curvature = self._derivatives(values, losses)
            diagonal = np.einsum("kii->ki", curvature)
            damped = curvature + (damping[:, None] * (diagonal + 1e-12))[:, :, None] * np.eye(5)
            step = np.linalg.solve(damped, gradient[:, :, None])[:, :, 0]
            candidate = np.clip(values - np.clip(step, -1, 1), -12, 6)
            changed = self._objective(candidate, losses)
            better = changed < objective
            values[better], objective[better] = candidate[better], changed[better]
            damping = np.clip(np.where(better, damping / 3, damping * 4), 1e-9, 1e9)
        return values, objective

    def _parts(self, values: Float[np.ndarray, "k 5"]) -> list[Float[np.ndarray, "k runs"]]:
        """Return the floor, the capacity term and the data term of each run."""
        columns = values[:, :, None]
        floor = np.exp(columns[:, _FLOOR]) + np.zeros_like(self._sizes)
        size = np.exp(columns[:, _SIZE] - np.exp(columns[:, _SIZE_POWER]) * self._sizes)
        data = np.exp(columns[:, _DATA] - np.exp(columns[:, _DATA_POWER]) * self._texts)
        return [floor, size, data]

    def _objective(
        self, values: Float[np.ndarray, "k 5"], losses: Float[np.ndarray, "k runs"]
    ) -> Float[np.ndarray, "k"]:
        distance = np.abs(self.predict(values) - losses)
        huber = np.where(distance <= HUBER_DELTA, distance**2 / 2, HUBER_DELTA * (distance - HUBER_DELTA / 2))
        return huber.sum(1) + self._prior_weight / 2 * (self._from_prior(values) ** 2).sum(1)

    def _derivatives(
        self, values: Float[np.ndarray, "k 5"], losses: Float[np.ndarray, "k runs"]
    ) -> tuple[Float[np.ndarray, "k 5"], Float[np.ndarray, "k 5 5"]]:
        """Return the gradient and the Gauss-Newton approximation of the second derivatives."""
        floor, size, data = self._parts(values)
        powers = np.exp(values[:, [_SIZE_POWER, _DATA_POWER], None])
        slopes = [floor, size, data, -size * powers[:, 0] * self._sizes, -data * powers[:, 1] * self._texts]
        total = floor + size + data
        jacobian = np.stack(slopes, axis=1) / total[:, None]
        residual = np.log(total) - losses
        weight = np.minimum(1.0, HUBER_DELTA / np.maximum(np.abs(residual), 1e-12))
        gradient = np.einsum("kpr,kr->kp", jacobian, weight * residual)
        curvature = np.einsum("kpr,kqr->kpq", jacobian * weight[:, None], jacobian)
        gradient[:, [_SIZE_POWER, _DATA_POWER]] += self._prior_weight * self._from_prior(values)
        curvature[:, [_SIZE_POWER, _DATA_POWER], [_SIZE_POWER, _DATA_POWER]] += self._prior_weight
        return gradient, curvature

    @staticmethod
    def _from_prior(values: Float[np.ndarray, "k 5"]) -> Float[np.ndarray, "k 2"]:
        return values[:, [_SIZE_POWER, _DATA_POWER]] - np.log(EXPONENTS)


# -- isoFLOP parabolas


@dataclass(frozen=True)
class Optimum:
    """The minimum of the parabola through the losses of one compute budget."""

    flops: float
    parameters: float
    bits_per_byte: float


def optima(runs: Sequence[MeasuredLoss]) -> list[Optimum]:
    """Return the optimum of each budget: of a parabola over the logarithm of the size (Hoffmann et al. 2022, sec. 3.2).

    A budget with fewer than three sizes, or whose parabola has no minimum within a factor of two of its sizes, has no
    optimum. Budgets are compared to two digits.
    """
    by_budget: dict[str, list[MeasuredLoss]] = defaultdict(list)
    for run in runs:
        by_budget[f"{run.flops:.1e}"].append(run)
    results = []
    for _, group in sorted(by_budget.items(), key=lambda item: float(item[0])):
        sizes = np.log([run.parameters for run in group])
        if len(set(sizes.tolist())) < 3:
            continue
        centre = sizes.mean()
        square, slope, constant = np.polyfit(sizes - centre, [run.bits_per_byte for run in group], 2).tolist()
        if square <= 0:
            continue
        vertex = -slope / (2 * square)
        if sizes.min() - math.log(2) <= vertex + centre <= sizes.max() + math.log(2):
            flops = float(np.mean([run.flops for run in group]))
            results.append(Optimum(flops, math.exp(vertex + centre), constant - slope**2 / (4 * square)))
    return results


def size_exponent(law: LawTerms) -> float:
    """Return the exponent a of the optimal size, N ~ C^a: b / (a + b) of the law (Hoffmann et al. 2022, eq. 4)."""
    return law.data_power / (law.size_power + law.data_power)
