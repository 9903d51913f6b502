"""The most precise floating-point type of a device: sums of many values are computed in it."""

from __future__ import annotations

import torch
from torch import Tensor

WITHOUT_FLOAT64 = frozenset({"mps"})
"""Types of devices without float64: Apple GPUs."""


def widest_float(device: str | torch.device) -> torch.dtype:
    """Return float64, or float32 for a device that has no float64."""
    return torch.float32 if torch.device(device).type in WITHOUT_FLOAT64 else torch.float64


def widened(values: Tensor) -> Tensor:
    """Return values in the most precise type of their device."""
    return values.to(widest_float(values.device))
