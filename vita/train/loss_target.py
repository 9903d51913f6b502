"""A held-out loss to reach, and the training time until it was reached.

    reached_target(metrics, target=3.28)     # {"loss": 3.279, "step": 3200, "seconds": 2890.4}, or None

The time is that of training steps, with compilation in the first one, and without evaluations, checkpoints and pauses.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

import torch

TRAINING_SECONDS = "training_seconds"
"""Metric of every step: the seconds of training steps so far."""


class TrainingClock:
    """The seconds of training steps; `seconds` are those of an earlier part of an interrupted run."""

    def __init__(self, device: str, *, seconds: float = 0.0) -> None:
        self.seconds, self._device, self._began = seconds, torch.device(device), 0.0

    def start(self) -> None:
        """Begin a step."""
        self._began = time.perf_counter()

    def stop(self, *, wait: bool = False) -> None:
        """End a step; with `wait`, after the device has completed it."""
        if wait and self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        self.seconds += time.perf_counter() - self._began


def reached_target(
    metrics: Iterable[Mapping[str, Any]], *, target: float, metric: str = "heldout_loss"
) -> dict[str, Any] | None:
    """Return loss, step and seconds of the first evaluation at or below the target; None if there is none.

    The seconds are missing if the metrics have no timings.
    """
    row = next((row for row in metrics if metric in row and row[metric] <= target), None)
    if row is None:
        return None
    timing = {"seconds": row[TRAINING_SECONDS]} if TRAINING_SECONDS in row else {}
    return {"loss": row[metric], "step": row["step"], **timing}
