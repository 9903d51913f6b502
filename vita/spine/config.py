"""Settings: frozen pydantic models from YAML and `--set a.b=value`, with helpful refusals and a canonical form.

class Config(Settings):
    rate: float = Field(1e-3, gt=0)
    '''Peak learning rate.'''

config = build(Config, {"rate": 0.01}, where="sft")
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vita.spine.errors import ConfigError


class Settings(BaseModel):
    """Base of every group of settings: frozen, nothing unknown, a docstring under each field."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, protected_namespaces=())


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
    try:
        return cls.model_validate(values)
    except ValidationError as error:
        raise _explain(cls, error, where) from None


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(str(path), "no such file") from None
    except IsADirectoryError:
        raise ConfigError(str(path), expected="a YAML file", got="a folder") from None
    except UnicodeDecodeError as error:
        raise ConfigError(
            str(path), expected="YAML text in UTF-8", got=f"bytes that are not ({error.reason})"
        ) from None
    except OSError as error:
        raise ConfigError(str(path), f"cannot be read: {error.strerror}") from None
    try:
        value = yaml.load(text, Loader=_UniqueKeys)
    except yaml.YAMLError as error:
        raise ConfigError(str(path), f"is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(value, dict):
        raise ConfigError(str(path), expected="settings as `name: value`", got=type(value).__name__)
    return value


class _UniqueKeys(yaml.SafeLoader):
    """YAML in which a name given twice is a mistake, 1e-3 is a number, and `no` is a word (truth is true or false)."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.YAMLError(f"`{key}` stands twice (line {key_node.start_mark.line + 1})")
            if key != "<<":
                seen.add(key)
        return super().construct_mapping(node, deep)


_TRUTH = "tag:yaml.org,2002:bool"
_UniqueKeys.yaml_implicit_resolvers = {
    first: [(tag, form) for tag, form in forms if tag != _TRUTH]
    for first, forms in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_UniqueKeys.add_implicit_resolver(_TRUTH, re.compile("^(true|True|TRUE|false|False|FALSE)$"), list("tTfF"))
_UniqueKeys.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def yaml_value(text: str) -> Any:
    """One value, read as in a life's file."""
    return yaml.load(text, Loader=_UniqueKeys)


def override(values: Mapping[str, Any], assignments: Iterable[str]) -> dict[str, Any]:
    """`values` with each `a.b.c=value` set; the value is read as YAML."""
    result: dict[str, Any] = json.loads(json.dumps(values, default=str))
    for assignment in assignments:
        path, sign, text = assignment.partition("=")
        if not sign or not path.strip():
            raise ConfigError("--set", expected="name.name=value", got=assignment)
        try:
            value = yaml_value(text)
        except yaml.YAMLError:
            raise ConfigError(f"--set {path}", expected="a YAML value", got=text) from None
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
            kept[name] = _canonical(given, contents)
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
    """The error for a name that is not among `names`: suggests the nearest, or lists them."""
    names = sorted(names)
    close = nearest(name, names)
    hint = f"did you mean `{close}`?" if close else "one of " + ", ".join(names)
    return ConfigError(where, f"`{name}` is not known here", hint=hint)


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
    message = (
        first["msg"].removeprefix("Value error, ").removeprefix("Input should be ").removeprefix("Assertion failed, ")
    )
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
