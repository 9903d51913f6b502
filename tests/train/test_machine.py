"""Hardware detection: fast precision, peak speed, and memory of the machine."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest
import torch

from vita.spine.errors import ConfigError
from vita.train import hardware
from vita.train.hardware import choose_precision, keep_freed_memory, matmul_peak


def test_the_precision_depends_on_the_units_of_the_processor(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True, "avx512_bf16": True})
    precision = choose_precision("cpu")
    assert (precision.name, precision.why) == ("bfloat16", "CPU with amx_bf16 and avx512_bf16")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True})
    precision = choose_precision("cpu")
    assert (precision.name, precision.why) == ("float32", "CPU without bfloat16 units")
    assert choose_precision("cpu", "bfloat16").dtype == torch.bfloat16
    assert choose_precision("mps").name == "float32"


def test_an_unknown_precision_is_refused():
    with pytest.raises(ConfigError, match="expected auto, bfloat16, float32 or float8, got 'float4'"):
        choose_precision("cpu", "float4")  # pyright: ignore[reportArgumentType]


def test_the_peak_speed_is_plausible():
    assert 1e9 < matmul_peak(torch.float32, seconds=0.01) < 1e15


def test_the_peak_speed_is_measured_once_in_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[torch.dtype] = []

    def count_call(dtype: torch.dtype, **settings: object) -> float:
        calls.append(dtype)
        return 2e9

    monkeypatch.setattr(hardware, "matmul_peak", count_call)
    hardware._measured_peak.cache_clear()
    assert [hardware.measured_peak(dtype) for dtype in (torch.float32, torch.float32, torch.bfloat16)] == [2e9] * 3
    assert calls == [torch.float32, torch.bfloat16]
    hardware._measured_peak.cache_clear()


def test_freed_memory_is_kept_with_glibc():
    assert keep_freed_memory() == (platform.libc_ver()[0] == "glibc")


def test_matrix_sizes_that_take_too_long_are_skipped(monkeypatch):
    sizes: list[int] = []

    def product_seconds(size: int, *args: object, **settings: object) -> float:
        sizes.append(size)
        return 2 * size**3 / 1e9  # a device of 1 GFLOP/s

    monkeypatch.setattr(hardware, "_seconds_per_product", product_seconds)
    assert matmul_peak(torch.float32) == pytest.approx(1e9)
    assert sizes == [512]


@pytest.mark.slow
def test_the_peak_memory_can_be_reset():
    """The test uses a new process, whose peak no other test has raised."""
    if not sys.platform.startswith("linux"):
        pytest.skip("only Linux resets the peak of a process")
    program = (
        "from vita.train.hardware import peak_memory, reset_peak_memory\n"
        "block = b'x' * (300 << 20)\n"
        "print(peak_memory('cpu')); del block\n"
        "reset_peak_memory('cpu'); print(peak_memory('cpu'))"
    )
    output = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    before, after = map(int, output.split())
    assert before > 300 << 20 and after < before - (250 << 20)
