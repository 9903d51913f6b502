"""The shapes in signatures are checked while the tests run."""

from __future__ import annotations

import pytest
import torch
from jaxtyping import Float, TypeCheckError
from torch import Tensor

from tests.shapes import checked
from vita.nn import attention


def row_sums(table: Float[Tensor, "R C"], /, fake: int = 0) -> Float[Tensor, "R"]:
    return table.sum(0 if fake else 1)


def test_a_wrong_shape_of_an_argument_or_a_result_is_refused():
    checked_sums = checked(row_sums)
    assert checked_sums(torch.ones(2, 3)).tolist() == [3, 3]
    with pytest.raises(TypeCheckError, match="table"):
        checked_sums(torch.ones(2, 3, 4))
    with pytest.raises(TypeCheckError, match="return value"):
        checked_sums(torch.ones(2, 3), 1)


def test_arguments_that_are_not_arrays_are_not_checked():
    assert checked(row_sums)(torch.ones(2, 3), None).tolist() == [3, 3]


def test_the_functions_of_vita_are_checked():
    functions = [name for name, value in vars(attention).items() if getattr(value, "__code__", None) is not None]
    assert any(hasattr(getattr(attention, name), "__wrapped__") for name in functions)
