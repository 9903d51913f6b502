"""Time and memory of training runs on this machine, fitted to the runs of a ladder.

    costs = fit_costs(runs)
    costs.seconds(rung)          # training time without the startup
    costs.memory_bytes(rung)     # peak memory of the process

Both are sums of a few quantities of a plan with coefficients of at least 0: a model of the machine, not of the loss.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from vita.design.forecast import plan_memory
from vita.design.ladder import Rung


@dataclass(frozen=True)
class MeasuredCost:
    """The measured time and memory of one run."""

    rung: Rung
    seconds_per_step: float
    memory_bytes: float | None
    cpu_seconds: float | None = None
    """Processor time of all steps, over all threads."""


@dataclass(frozen=True)
class Costs:
    """The coefficients of the time of a step and of the peak memory."""

    time: tuple[float, ...]
    """Seconds for each entry of `step_quantities`."""
    memory: tuple[float, ...] | None
    """Bytes for each entry of `memory_quantities`; None without measurements."""
    cpu_time: tuple[float, ...] | None = None
    """Processor seconds of a step for each entry of `step_quantities`; None without measurements."""

    def cpu_seconds(self, rung: Rung) -> float | None:
        """Return the processor time of a run in seconds, which depends less on other programs than the time."""
        return None if self.cpu_time is None else rung.plan.steps * float(np.dot(step_quantities(rung), self.cpu_time))

    def seconds(self, rung: Rung) -> float:
        """Return the training time of a run in seconds, without the startup."""
        return rung.plan.steps * float(np.dot(step_quantities(rung), self.time))

    def memory_bytes(self, rung: Rung) -> float | None:
        """Return the peak memory of a run in bytes."""
        return None if self.memory is None else float(np.dot(memory_quantities(rung), self.memory))

    def as_json(self) -> dict[str, Any]:
        """Return plain values for `law.json`."""
        return {
            "time": list(self.time),
            "memory": None if self.memory is None else list(self.memory),
            "cpu_time": None if self.cpu_time is None else list(self.cpu_time),
        }


def step_quantities(rung: Rung) -> list[float]:
    """Return the quantities that the time of a step depends on.

    The layers (operations that are called), FLOPs, stored activations (memory traffic of the forward and backward
    pass), and parameters (the optimizer).
    """
    tokens, shape = rung.plan.tokens_per_step, rung.shape
    flops = tokens * shape.flops_per_token(rung.plan.context)
    return [float(shape.layers), float(flops), float(tokens * shape.stored_activations()), float(shape.parameters())]


def memory_quantities(rung: Rung) -> list[float]:
    """Return the quantities that the peak memory depends on: 1 (libraries), bytes of state and of a micro-batch."""
    memory = plan_memory(rung.shape, rung.plan)
    state = memory["weights"] + memory["gradients"] + memory["optimizer"]
    return [1.0, float(state), float(memory["activations"] + memory["logits"])]


def fit_costs(runs: Sequence[MeasuredCost]) -> Costs:
    """Fit the coefficients by least squares of the relative errors."""
    time = non_negative_fit([step_quantities(run.rung) for run in runs], [run.seconds_per_step for run in runs])
    measured = [(run.rung, run.memory_bytes) for run in runs if run.memory_bytes]
    memory = cpu_time = None
    if len(measured) > 1:
        memory = non_negative_fit([memory_quantities(rung) for rung, _ in measured], [size for _, size in measured])
    timed = [(run.rung, run.cpu_seconds / run.rung.plan.steps) for run in runs if run.cpu_seconds]
    if len(timed) > 1:
        cpu_time = non_negative_fit([step_quantities(rung) for rung, _ in timed], [seconds for _, seconds in timed])
    return Costs(time, memory, cpu_time)


def non_negative_fit(rows: Sequence[Sequence[float]], values: Sequence[float]) -> tuple[float, ...]:
    """Return the coefficients of at least 0 with the least sum of squared relative errors.

    The best of the solutions for all subsets of the columns, of which there are few.
    """
    table, target = np.array(rows, float), np.array(values, float)
    scale = table.max(axis=0)
    table = table / scale / target[:, None]
    best, lowest = np.zeros(table.shape[1]), float("inf")
    for size in range(1, table.shape[1] + 1):
        for columns in itertools.combinations(range(table.shape[1]), size):
            part: Float[np.ndarray, "columns"] = np.linalg.lstsq(table[:, columns], np.ones(len(target)), rcond=None)[0]
            error = float(((table[:, columns] @ part - 1) ** 2).sum())
            if (part >= 0).all() and error < lowest * (1 - 1e-9):
                best, lowest = np.zeros(table.shape[1]), error
                best[list(columns)] = part
    return tuple((best / scale).tolist())


def left_out_cost_errors(
    runs: Sequence[MeasuredCost], predicted: Callable[[Costs, MeasuredCost], float | None],
    actual: Callable[[MeasuredCost], float | None],
) -> list[float]:  # fmt: skip
    """Return the relative error of the prediction for each size by the runs of the other sizes."""
    errors = []
    for size in sorted({run.rung.shape.matrix_parameters() for run in runs}):
        others = [run for run in runs if run.rung.shape.matrix_parameters() != size]
        if len(others) < 3:
            continue
        costs = fit_costs(others)
        for run in runs:
            if run.rung.shape.matrix_parameters() == size:
                value, measured = predicted(costs, run), actual(run)
                if value is not None and measured:
                    errors.append(value / measured - 1)
    return errors
