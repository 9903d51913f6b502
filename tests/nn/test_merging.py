"""Merging of weights: values worked by hand."""

from __future__ import annotations

import math

import pytest
import torch

from vita.nn.merging import average, slerp, task_arithmetic, ties


def state(*values: float) -> dict[str, torch.Tensor]:
    return {"w": torch.tensor(values)}


def test_average_worked_by_hand() -> None:
    assert average([state(1, 2), state(3, 6)], weights=[1, 1])["w"].tolist() == [2, 4]
    assert average([state(1, 2), state(3, 6)], weights=[3, 1])["w"].tolist() == [1.5, 3]


def test_slerp_follows_the_great_circle_and_is_linear_for_parallel_weights() -> None:
    first, second = state(1, 0), state(0, 1)
    middle = slerp(first, second, position=0.5)["w"]
    assert middle.tolist() == pytest.approx([math.sqrt(0.5)] * 2)
    third = slerp(first, second, position=1 / 3)["w"]
    assert third.tolist() == pytest.approx([math.cos(math.pi / 6), math.sin(math.pi / 6)])
    assert slerp(first, second, position=0)["w"].tolist() == [1, 0]
    assert slerp(state(2, 2), state(4, 4), position=0.25)["w"].tolist() == [2.5, 2.5]
    assert slerp(state(0, 0), state(4, 2), position=0.5)["w"].tolist() == [2, 1]


def test_task_arithmetic_adds_and_subtracts_task_vectors() -> None:
    base, first, second = state(1, 1), state(2, 1), state(1, 4)
    assert task_arithmetic(base, [first, second], weights=[1, 1])["w"].tolist() == [2, 4]
    assert task_arithmetic(base, [first], weights=[-1])["w"].tolist() == [0, 1]


def test_ties_elects_the_sign_with_the_larger_total() -> None:
    base = state(0, 0, 0, 0)
    first, second = state(3, -1, 0.1, 2), state(-1, -3, 0.2, 4)
    merged = ties(base, [first, second], weights=[1, 1], density=0.75)["w"]
    # 0.1 and 0.2 are trimmed; 3 wins against -1; -1 and -3, and 2 and 4, agree.
    assert merged.tolist() == [3, -2, 0, 3]
