"""The benchmark of a GPU: its table, its tokens, and its refusal without a device."""

from __future__ import annotations

import sys

import pytest
import torch

from bench import gpu
from bench.gpu_cases import CASES, SIZES, architecture_of, random_tokens


def test_the_table_names_what_failed_or_was_left_out() -> None:
    rows = [
        gpu.Row("135M exact", {"tokens/s": 560_000, "MFU": 0.41, "formula": "long"}),
        gpu.Row("1B exact", {}, "stopped after 90 s"),
    ]
    assert gpu.table(rows).splitlines()[1:] == [
        "135M exact               tokens/s 560,000  MFU 0.41",
        "1B exact                 stopped after 90 s",
    ]


def test_sizes_have_the_parameters_of_their_names() -> None:
    millions = {name: architecture_of(size).parameters() / 1e6 for name, size in SIZES.items()}
    assert millions == pytest.approx({"124M": 124, "135M": 135, "1B": 1160}, rel=0.02)


def test_all_limits_but_those_of_the_last_cases_fit_in_nine_minutes() -> None:
    important = CASES[:5]
    assert gpu.TEST_SECONDS + sum(case.limit for case in important) <= gpu.LIMIT < 9 * 60


def test_tokens_are_reproducible_and_the_first_ones_the_most_frequent() -> None:
    ids = random_tokens(3, rows=8, length=1000, vocabulary=500)
    assert ids.shape == (8, 1000) and torch.equal(ids, random_tokens(3, rows=8, length=1000, vocabulary=500))
    counts = torch.bincount(ids.flatten(), minlength=500)
    assert counts[:10].sum() > 5 * counts[-10:].sum() and len(counts) == 500


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_without_a_device_the_rehearsal_is_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu"])
    with pytest.raises(SystemExit, match="try bench/gpu.sh --rehearse"):
        gpu.main()
