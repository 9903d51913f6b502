"""The base of the models of request bodies, and the error of a rule between their fields."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, model_validator


class RequestBody(BaseModel):
    """Base of every request body."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, allow_inf_nan=False, use_attribute_docstrings=True,
        protected_namespaces=(),
    )  # fmt: skip

    unsupported: ClassVar[Mapping[str, tuple[Any, ...]]] = {}
    """Fields of the OpenAI or Anthropic API that are accepted only with these values or null, without an effect."""

    @model_validator(mode="before")
    @classmethod
    def _without_neutral_fields(cls, values: Any) -> Any:
        names = cls.unsupported.keys() - cls.model_fields.keys()
        if not isinstance(values, dict) or names.isdisjoint(values):
            return values
        for name in sorted(names & values.keys()):
            if values[name] is not None and not any(values[name] == neutral for neutral in cls.unsupported[name]):
                raise UnsupportedRequestField(name)
        return {name: value for name, value in values.items() if name not in names}


class DialogueBody(RequestBody):
    """Base of messages, items, blocks, parts and calls of a dialogue, which can be dumps of an earlier answer.

    The dumps of client libraries have fields of their own whose value is null. Unknown fields with null are dropped:
    they contain no data. In other objects of a request they are refused.
    """

    @model_validator(mode="before")
    @classmethod
    def _known_or_not_null(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        return {name: value for name, value in values.items() if value is not None or name in cls.model_fields}


class UnsupportedRequestField(ValueError):
    """An error for a field that the server knows and does not support."""

    def __init__(self, name: str) -> None:
        """`name` is that of the field in its object."""
        super().__init__(f"`{name}` is not supported by this server")
        self.name = name


class InvalidPlace(ValueError):
    """An error for a place in the value that a validator reads, such as a field of an entry of a list."""

    def __init__(self, place: Sequence[int | str], problem: str, *, code: str = "invalid_value") -> None:
        """`place` is relative to the value; `problem` follows its name."""
        super().__init__(problem)
        self.place, self.code = tuple(place), code


class Misplaced(ValueError):
    """An error for a violated rule between fields, with the field to name."""

    def __init__(self, param: str, problem: str, *, code: str | None = None, fields: Sequence[str] = ()) -> None:
        """`fields` are the further fields of the request that `problem` contains in backticks."""
        super().__init__(f"`{param}` {problem}")
        self.param, self.code, self.fields = param, code, tuple(fields)
