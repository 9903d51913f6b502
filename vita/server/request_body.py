"""The base of the models of request bodies, and the error of a rule between their fields."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict


class RequestBody(BaseModel):
    """Base of every request body."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, allow_inf_nan=False, use_attribute_docstrings=True,
        protected_namespaces=(),
    )  # fmt: skip

    unsupported: ClassVar[Mapping[str, tuple[Any, ...]]] = {}
    """Fields of the OpenAI API that are accepted only with these values."""


class Misplaced(ValueError):
    """An error for a violated rule between fields, with the field to name."""

    def __init__(self, param: str, problem: str, *, code: str | None = None) -> None:
        super().__init__(f"`{param}` {problem}")
        self.param, self.code = param, code
