"""Which numbers a device multiplies quickly: bfloat16 where it has units for it, float32 elsewhere.

The answer is read from what the processor says of itself, never from a clock, so a restart decides alike. Masters,
optimizer and sums stay in float32 either way.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from vita.spine.errors import ConfigError
from vita.train.choices import PrecisionChoice


@dataclass(frozen=True)
class Precision:
    """What matrices are multiplied in, and why."""

    dtype: torch.dtype
    why: str

    @property
    def name(self) -> str:
        return str(self.dtype).removeprefix("torch.")


def choose_precision(device: str, choice: PrecisionChoice = "auto") -> Precision:
    """The type asked for, or the one this device is fast at."""
    if choice != "auto":
        if choice not in ("bfloat16", "float32"):
            raise ConfigError("precision", expected="auto, bfloat16 or float32", got=choice)
        return Precision(getattr(torch, choice), "as asked for")
    kind = torch.device(device).type
    if kind == "cuda":
        major, minor = torch.cuda.get_device_capability()
        return _either(major >= 8, f"CUDA device of capability {major}.{minor}")
    if kind == "cpu":
        can = torch.cpu.get_capabilities()
        units = [name for name in ("amx_bf16", "avx512_bf16") if can.get(name)]
        return _either(bool(units), f"CPU with {' and '.join(units)}" if units else "CPU without bfloat16 units")
    return _either(False, f"device {kind}")


def _either(fast: bool, why: str) -> Precision:
    return Precision(torch.bfloat16 if fast else torch.float32, why)
