"""Speeds of matrix products by data sheet, beside which the measured speed of a device is reported.

Dense products in bfloat16 with float32 sums, without sparsity. Data sheets of NVIDIA often state the double, for
matrices in which half of the numbers are zero.
"""

from __future__ import annotations

from typing import NamedTuple

import torch


class DatasheetPeak(NamedTuple):
    """The stated speed of a device."""

    name: str
    """Part of the name that the driver reports; more specific names come first."""
    flops_per_second: float
    source: str


DATASHEET_PEAKS = (
    DatasheetPeak("GB200", 2500e12, "NVIDIA GB200 NVL72 datasheet: 5,000 TFLOPS sparse for one GPU"),
    DatasheetPeak("B200", 2250e12, "NVIDIA Blackwell datasheet, HGX B200: 36 PFLOPS sparse for 8 GPUs"),
    DatasheetPeak("H200 NVL", 835e12, "NVIDIA H200 datasheet: 1,671 TFLOPS sparse"),
    DatasheetPeak("H200", 989e12, "NVIDIA H200 datasheet, SXM: 1,979 TFLOPS sparse"),
    DatasheetPeak("H100 NVL", 835e12, "NVIDIA H100 datasheet: 1,671 TFLOPS sparse"),
    DatasheetPeak("H100 PCIe", 756e12, "NVIDIA H100 datasheet of 2022, PCIe: 1,513 TFLOPS sparse"),
    DatasheetPeak("H100", 989e12, "NVIDIA H100 datasheet, SXM: 1,979 TFLOPS sparse"),
    DatasheetPeak("A100", 312e12, "NVIDIA A100 datasheet: 312 TFLOPS dense"),
    DatasheetPeak("L40S", 362e12, "NVIDIA L40S datasheet: 362.05 TFLOPS dense"),
    DatasheetPeak("RTX 4090", 165.2e12, "NVIDIA Ada GPU architecture whitepaper, appendix A: 165.2 TFLOPS dense"),
)


def datasheet_peak(name: str, dtype: torch.dtype) -> DatasheetPeak | None:
    """Return the stated speed of the device of this name; None for other devices, and for other dtypes."""
    if dtype != torch.bfloat16:
        return None
    return next((peak for peak in DATASHEET_PEAKS if peak.name.lower() in name.lower()), None)


def device_peak(device: str, dtype: torch.dtype) -> DatasheetPeak | None:
    """Return the stated speed of a device of this machine."""
    if torch.device(device).type != "cuda":
        return None
    return datasheet_peak(torch.cuda.get_device_name(device), dtype)
