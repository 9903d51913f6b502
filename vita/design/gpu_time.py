"""The estimated time of a pretraining on one GPU, from the peak of its data sheet.

gpu_time("H100", flops_per_token=8.0e8, tokens=1_835_008_000).seconds      # shortest and longest
"""

from __future__ import annotations

from dataclasses import dataclass

from vita.spine.config import unknown_name

UTILISATION = (0.35, 0.43)
"""Share of the data-sheet peak: measured on one H200 with 135M parameters and 1,024 tokens per row, with exact sums and
with fast sums and large micro-batches (docs/gpu.md)."""


@dataclass(frozen=True)
class GpuTime:
    """An estimate for one GPU; ranges begin with the lower number."""

    gpu: str
    seconds: tuple[float, float]
    """Time of the training steps."""
    tokens_per_second: tuple[float, float]
    basis: str


def gpu_time(gpu: str, *, flops_per_token: float, tokens: int) -> GpuTime:
    """Return the time for `tokens` tokens; raise a `ConfigError` for a GPU that the table of peaks does not list."""
    from vita.train.peaks import DATASHEET_PEAKS

    peaks = {peak.name.lower(): peak for peak in DATASHEET_PEAKS}
    if (peak := peaks.get(gpu.lower())) is None:
        raise unknown_name("--gpu", gpu, [peak.name for peak in DATASHEET_PEAKS])
    low, high = (share * peak.flops_per_second / flops_per_token for share in UTILISATION)
    basis = f"{UTILISATION[0]:.0%} to {UTILISATION[1]:.0%} of {peak.flops_per_second / 1e12:,.0f} TFLOP/s"
    return GpuTime(peak.name, (tokens / high, tokens / low), (low, high), basis)
