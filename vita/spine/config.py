"""Settings: frozen pydantic models from YAML and `--set a.b=value`, with helpful refusals and a canonical form.

class Config(Settings):
    rate: float = Field(1e-3, gt=0)
    '''Peak learning rate.'''

config = build(Config, {"rate": 0.01}, where="sft")
"""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vita.spine.errors import ConfigError
from vita.spine.yaml_text import read_yaml as read_yaml
from vita.spine.yaml_text import yaml_value as yaml_value


class Settings(BaseModel):
    """Base of every group of settings: frozen, no unknown names, finite numbers, a docstring under each field."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, protected_namespaces=(), allow_inf_nan=False
    )

    def identity_of(self, field: str, value: Any) -> Any:
        """What identifies a field whose canonical form is `value`; a subclass adds what the result depends on, too."""
        return value


S = TypeVar("S", bound=Settings)


class InputPath(str):
    """A file, folder, glob or URL whose *content* belongs to the identity of a run."""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema

        return core_schema.no_info_after_validator_function(cls, core_schema.str_schema(min_length=1))


def neutral(default: Any, **constraints: Any) -> Any:
    """A field that stays out of the identity while it has its default ("as before")."""
    return Field(default, json_schema_extra={"neutral": True}, **constraints)


def build(cls: type[S], values: Mapping[str, Any], *, where: str) -> S:
    """Settings from plain values; the first mistake becomes one line with its path and the nearest right name."""
    _refuse_non_finite(values, where)
    try:
        return cls.model_validate(values)
    except ValidationError as error:
        raise _explain(cls, error, where) from None
    except RecursionError:
        raise ConfigError(where, "is nested too deeply") from None


def _refuse_non_finite(value: Any, where: str) -> None:
    """Refuse infinity and NaN, also inside fields of type `Any`, which pydantic does not check."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(where, expected="a finite number", got=value)
    if isinstance(value, Mapping):
        for name, below in value.items():
            _refuse_non_finite(below, f"{where}.{name}")
    elif isinstance(value, (list, tuple)):
        for index, below in enumerate(value):
            _refuse_non_finite(below, f"{where}.{index}")


def override(values: Mapping[str, Any], assignments: Iterable[str]) -> dict[str, Any]:
    """`values` with each `a.b.c=value` set; the value is read as YAML."""
    result: dict[str, Any] = json.loads(json.dumps(values, default=str))
    for assignment in assignments:
        path, sign, text = assignment.partition("=")
        if not sign or not path.strip():
            raise ConfigError("--set", expected="name.name=value", got=assignment)
        try:
            value = yaml_value(text)
        except yaml.YAMLError as error:
            problem = " ".join(str(error).split())
            raise ConfigError(f"--set {path}", expected="a YAML value", got=text, hint=problem) from None
        *parents, last = path.strip().split(".")
        at: Any = result
        for name in parents:
            at = _below(at, name, path)
        _put(at, last, value, path)
    return result


def _below(at: Any, name: str, path: str) -> Any:
    """The settings under `name`, made where there are none; a number finds its place in a list."""
    if isinstance(at, list) and name.isdigit() and int(name) < len(at):
        return at[int(name)]
    if not isinstance(at, dict):
        raise ConfigError(f"--set {path}", f"there is nothing under which `{name}` could stand")
    if at.get(name) is None:
        at[name] = {}
    return at[name]


def _put(at: Any, name: str, value: Any, path: str) -> None:
    if isinstance(at, list) and name.isdigit() and int(name) < len(at):
        at[int(name)] = value
    elif isinstance(at, dict):
        at[name] = value
    else:
        raise ConfigError(f"--set {path}", f"there is nothing under which `{name}` could stand")


def canonical(settings: Settings, *, contents: Mapping[str, str] | None = None) -> Any:
    """The plain form that identifies `settings`: neutral fields at their default left out, and
    each `InputPath` replaced by the digest of what it holds, from `contents`."""
    return _canonical(settings, contents or {})


def _canonical(value: Any, contents: Mapping[str, str]) -> Any:
    if isinstance(value, Settings):
        kept = {}
        for name, field in type(value).model_fields.items():
            extra = field.json_schema_extra
            given = getattr(value, name)
            if (
                isinstance(extra, dict)
                and extra.get("neutral")
                and given == field.get_default(call_default_factory=True)
            ):
                continue
            kept[name] = value.identity_of(name, _canonical(given, contents))
        return kept
    if isinstance(value, InputPath):
        return {"content": contents[value]} if value in contents else str(value)
    if isinstance(value, Mapping):
        return {str(name): _canonical(below, contents) for name, below in value.items()}
    if isinstance(value, (list, tuple)):
        return [_canonical(below, contents) for below in value]
    if isinstance(value, (set, frozenset)):
        return sorted(_canonical(below, contents) for below in value)
    if isinstance(value, Path):
        return str(value)
    return value


def input_paths(value: Any) -> list[InputPath]:
    """Every `InputPath` inside `value`, in order."""
    if isinstance(value, InputPath):
        return [value]
    if isinstance(value, Settings):
        return [path for name in type(value).model_fields for path in input_paths(getattr(value, name))]
    if isinstance(value, Mapping):
        return [path for below in value.values() for path in input_paths(below)]
    if isinstance(value, (list, tuple)):
        return [path for below in value for path in input_paths(below)]
    return []


def nearest(name: str, names: Iterable[str]) -> str | None:
    """The most similar of `names`, or None when nothing is close."""
    found = difflib.get_close_matches(name, list(names), n=1, cutoff=0.5)
    return found[0] if found else None


def unknown_name(where: str, name: str, names: Iterable[str]) -> ConfigError:
    """The error for a name that is not among `names`: suggests the nearest, or lists the alternatives."""
    names = sorted(names)
    close = nearest(name, names)
    hint = f"did you mean `{close}`?" if close else alternatives(names)
    return ConfigError(where, f"`{name}` is not known here", hint=hint)


def alternatives(names: Iterable[str], *, most: int = 30) -> str:
    """The allowed names as a hint: `one of a, b, c`, also when there is one or none."""
    names = list(names)
    if not names:
        return "there are none to choose from"
    if len(names) == 1:
        return f"the only one is {names[0]}"
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return "one of " + ", ".join(names[:most]) + more


_EXPECTED = {
    "int_parsing": "a valid integer",
    "int_parsing_size": "a valid integer",
    "int_from_float": "a valid integer",
    "float_parsing": "a valid number",
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "string_type": "text",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "settings as `name: value`",
}
"""What a setting expects, by pydantic's type of error, where pydantic's own words name Python's types."""


def _explain(cls: type[Settings], error: ValidationError, where: str) -> ConfigError:
    first = error.errors(include_url=False)[0]
    path = [part for part in first["loc"] if not (isinstance(part, str) and part.startswith(("function-", "literal[")))]
    spot = ".".join([where, *map(str, path)]) if path else where
    if first["type"] == "extra_forbidden":
        owner = _owner(cls, path[:-1])
        parent = ".".join([where, *map(str, path[:-1])])
        return unknown_name(parent, str(path[-1]), owner.model_fields if owner else [])
    if first["type"] == "missing":
        return ConfigError(spot, "is required and was not given")
    message = _EXPECTED.get(first["type"]) or (
        first["msg"].removeprefix("Value error, ").removeprefix("Input should be ").removeprefix("Assertion failed, ")
    )
    if first["type"] == "string_pattern_mismatch":
        message = f"text of the form {first.get('ctx', {}).get('pattern', '')}"
    if first["type"] in ("value_error", "assertion_error"):
        return ConfigError(spot, message)
    return ConfigError(spot, expected=message, got=first.get("input"))


def _owner(cls: type[Settings], path: list[Any]) -> type[Settings] | None:
    for part in path:
        field = cls.model_fields.get(str(part)) if cls else None
        if field is None:
            continue  # an index into a list, or a branch of a union
        inner = _settings_in(field.annotation)
        if inner is None:
            return None
        cls = inner
    return cls


def _settings_in(annotation: Any) -> type[Settings] | None:
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        return annotation
    for inner in get_args(annotation):
        found = _settings_in(inner)
        if found:
            return found
    return None
