"""What is read off the machine: its quick numbers, its peak, and that memory is kept."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest
import torch

from vita.spine.errors import ConfigError
from vita.train import hardware
from vita.train.hardware import choose_precision, keep_freed_memory, matmul_peak


def test_the_quick_numbers_are_those_the_processor_has_units_for(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True, "avx512_bf16": True})
    found = choose_precision("cpu")
    assert (found.name, found.why) == ("bfloat16", "CPU with amx_bf16 and avx512_bf16")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True})
    found = choose_precision("cpu")
    assert (found.name, found.why) == ("float32", "CPU without bfloat16 units")
    assert choose_precision("cpu", "bfloat16").dtype == torch.bfloat16
    assert choose_precision("mps").name == "float32"


def test_another_choice_is_refused():
    with pytest.raises(ConfigError, match="expected auto, bfloat16 or float32, got 'float8'"):
        choose_precision("cpu", "float8")  # pyright: ignore[reportArgumentType]


def test_the_peak_is_a_plausible_number():
    assert 1e9 < matmul_peak(torch.float32, seconds=0.01) < 1e15


def test_freed_memory_is_kept_where_there_is_glibc():
    assert keep_freed_memory() == (platform.libc_ver()[0] == "glibc")


def test_a_size_whose_product_takes_too_long_is_left_out(monkeypatch):
    sizes: list[int] = []

    def seconds(size: int, *given: object, **settings: object) -> float:
        sizes.append(size)
        return 2 * size**3 / 1e9  # a device of 1 GFLOP/s

    monkeypatch.setattr(hardware, "_seconds_per_product", seconds)
    assert matmul_peak(torch.float32) == pytest.approx(1e9)
    assert sizes == [512]


def test_the_peak_of_memory_is_measured_anew_for_each_stage():
    """In a process of its own, whose peak no other test has raised."""
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
