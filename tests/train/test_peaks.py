"""Speeds by data sheet."""

from __future__ import annotations

import pytest
import torch

from vita.train.peaks import DATASHEET_PEAKS, datasheet_peak, device_peak


@pytest.mark.parametrize(
    ("name", "teraflops"),
    [
        ("NVIDIA H200", 989),
        ("NVIDIA H200 NVL", 835),
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA L40S", 362),
        ("NVIDIA GeForce RTX 4090", 165.2),
        ("NVIDIA B200", 2250),
        ("NVIDIA GB200", 2500),
    ],
)
def test_the_name_that_a_driver_reports_selects_the_peak(name: str, teraflops: float) -> None:
    peak = datasheet_peak(name, torch.bfloat16)
    assert peak is not None and peak.flops_per_second == pytest.approx(teraflops * 1e12)


def test_other_devices_and_dtypes_have_no_peak() -> None:
    assert datasheet_peak("NVIDIA GeForce RTX 4090 D", torch.float32) is None
    assert datasheet_peak("AMD Instinct MI300X", torch.bfloat16) is None
    assert device_peak("cpu", torch.bfloat16) is None


def test_each_peak_names_its_source() -> None:
    assert all("NVIDIA" in peak.source for peak in DATASHEET_PEAKS)
