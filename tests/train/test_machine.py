"""What is read off the machine: its quick numbers, its peak, and that memory is kept."""

from __future__ import annotations

import platform

import pytest
import torch

from vita.spine.errors import ConfigError
from vita.train.memory import keep_freed_memory
from vita.train.peak import matmul_peak
from vita.train.precision import choose_precision


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
