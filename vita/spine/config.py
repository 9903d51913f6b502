"""Settings: frozen pydantic models from YAML and `--set a.b=value`, with precise errors and a canonical form.

class Config(Settings):
    learning_rate: float = Field(1e-3, gt=0)
    '''Peak learning rate.'''

config = build(Config, {"learning_rate": 0.01}, where="sft")
"""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vita.spine.errors import ConfigError
from vita.spine.renamed_settings import hint_for, present_name
from vita.spine.renamed_stages import present_stage
from vita.spine.yaml_text import read_yaml as read_yaml
from vita.spine.yaml_text import yaml_value as yaml_value


class Settings(BaseModel):
    """Base class of all settings: frozen, no unknown names, finite numbers, a docstring under each field."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, protected_namespaces=(), allow_inf_nan=False
    )

    @classmethod
    def __pydantic_init_subclass__(cls, **options: Any) -> None:
        """A field that a subclass declares again, with another default, keeps its description."""
        super().__pydantic_init_subclass__(**options)
        for name, field in cls.model_fields.items():
            if field.description is None:
                inherited = (base.model_fields[name] for base in _bases_with(cls, name))
                field.description = next((base.description for base in inherited if base.description), None)

    def identity_of(self, field: str, value: Any) -> Any:
        """Return the identity of a field with canonical form `value`; subclasses add what else changes the result."""
        return value


def _bases_with(cls: type[Settings], name: str) -> list[type[Settings]]:
    bases = [base for base in cls.__mro__[1:] if issubclass(base, Settings)]
    return [base for base in bases if name in base.model_fields]


S = TypeVar("S", bound=Settings)
V = TypeVar("V")


class InputPath(str):
    """A file, folder, glob or URL whose *content* belongs to the identity of a run."""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema

        return core_schema.no_info_after_validator_function(cls, core_schema.str_schema(min_length=1))

    def below(self, base: Path) -> InputPath:
        """Return the path relative to `base`, the folder of the life file; URLs and absolute paths stay unchanged."""
        is_remote = "://" in self or Path(self).expanduser().is_absolute()
        return self if is_remote else type(self)(base / self)

    def identify(self, ledger: Any, *, where: str) -> str | None:
        """Return the identity of content that is not in files; None to identify the path by its files."""
        return None


def neutral(default: Any, **constraints: Any) -> Any:
    """Declare a field that is not part of the identity while it has its default value."""
    return Field(default, json_schema_extra={"neutral": True}, **constraints)


def operational(default: Any, **constraints: Any) -> Any:
    """Declare a field that is never part of the identity, because it changes where a run computes, not its result."""
    return Field(default, json_schema_extra={"operational": True}, **constraints)


def build(cls: type[S], values: Mapping[str, Any], *, where: str) -> S:
    """Build settings from plain values; the first mistake raises a `ConfigError` with its path."""
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
        for name, item in value.items():
            _refuse_non_finite(item, f"{where}.{name}")
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            _refuse_non_finite(item, f"{where}.{index}")


def override(values: Mapping[str, Any], assignments: Iterable[str]) -> dict[str, Any]:
    """Return a copy of `values` with each `a.b.c=value` applied; the value is parsed as YAML."""
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
        node: Any = result
        for name in parents:
            node = _below(node, name, path)
        _put(node, last, value, path)
    return result


def _below(node: Any, name: str, path: str) -> Any:
    """Return the settings under `name`, created if missing; a number is an index into a list."""
    if isinstance(node, list) and name.isdigit() and int(name) < len(node):
        return node[int(name)]
    if not isinstance(node, dict):
        raise ConfigError(f"--set {path}", f"`{name}` has no parent setting")
    if node.get(name) is None:
        node[name] = {}
    return node[name]


def _put(node: Any, name: str, value: Any, path: str) -> None:
    if isinstance(node, list) and name.isdigit() and int(name) < len(node):
        node[int(name)] = value
    elif isinstance(node, dict):
        node[name] = value
    else:
        raise ConfigError(f"--set {path}", f"`{name}` has no parent setting")


def canonical(settings: Settings, *, contents: Mapping[str, str] | None = None) -> Any:
    """Return the plain form that identifies `settings`.

    Neutral fields at their default and operational fields are left out. Each `InputPath` is replaced by its content
    digest from `contents`.
    """
    return _canonical(settings, contents or {})


def _canonical(value: Any, contents: Mapping[str, str]) -> Any:
    if isinstance(value, Settings):
        canonical_fields = {}
        for name, field in type(value).model_fields.items():
            extra = field.json_schema_extra
            field_value = getattr(value, name)
            markers = extra if isinstance(extra, dict) else {}
            is_default = field_value == field.get_default(call_default_factory=True)
            if markers.get("operational") or (markers.get("neutral") and is_default):
                continue
            canonical_fields[name] = value.identity_of(name, _canonical(field_value, contents))
        return canonical_fields
    if isinstance(value, InputPath):
        return {"content": contents[value]} if value in contents else str(value)
    if isinstance(value, Mapping):
        return {str(name): _canonical(item, contents) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_canonical(item, contents) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted(_canonical(item, contents) for item in value)
    if isinstance(value, Path):
        return str(value)
    return value


def input_paths(value: Any) -> list[InputPath]:
    """Return every `InputPath` inside `value`, in order."""
    if isinstance(value, InputPath):
        return [value]
    if isinstance(value, Settings):
        return [path for name in type(value).model_fields for path in input_paths(getattr(value, name))]
    if isinstance(value, Mapping):
        return [path for item in value.values() for path in input_paths(item)]
    if isinstance(value, (list, tuple)):
        return [path for item in value for path in input_paths(item)]
    return []


def resolve_paths(value: V, base: Path) -> V:
    """Return settings, a mapping or a list with every relative `InputPath` relative to `base`."""
    return cast(V, _resolved(value, base))


def _resolved(value: Any, base: Path) -> Any:
    if isinstance(value, InputPath):
        return value.below(base)
    if isinstance(value, Settings):
        fields = {name: getattr(value, name) for name in type(value).model_fields}
        resolved = {name: _resolved(field, base) for name, field in fields.items()}
        # Only changed fields, so that `model_fields_set` still names those that the user has set.
        changed = {name: field for name, field in resolved.items() if field != fields[name]}
        return value.model_copy(update=changed) if changed else value
    if isinstance(value, Mapping):
        return {name: _resolved(item, base) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_resolved(item, base) for item in value)
    return value


def nearest(name: str, names: Iterable[str]) -> str | None:
    """Return the most similar of `names`, or None if none is close."""
    matches = difflib.get_close_matches(name, list(names), n=1, cutoff=0.5)
    return matches[0] if matches else None


def unknown_name(where: str, name: str, names: Iterable[str]) -> ConfigError:
    """Return the error for a name that is not in `names`, with its present name, the closest one, or all of them."""
    names = sorted(names)
    present = present_name(name, names) or present_stage(name, names)
    if present:
        return ConfigError(where, f"`{name}` has been renamed to `{present}`", hint=hint_for(present))
    close = nearest(name, names)
    hint = f"did you mean `{close}`?" if close else alternatives(names)
    return ConfigError(where, f"`{name}` is not known here", hint=hint)


def alternatives(names: Iterable[str], *, limit: int = 30) -> str:
    """Format the allowed names as a hint: `one of a, b, c`; also for one name or none."""
    names = list(names)
    if not names:
        return "there are none to choose from"
    if len(names) == 1:
        return f"the only one is {names[0]}"
    remainder = f" and {len(names) - limit} more" if len(names) > limit else ""
    return "one of " + ", ".join(names[:limit]) + remainder


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
"""pydantic error type -> expected value, for errors whose pydantic message names Python types."""


def _explain(cls: type[Settings], error: ValidationError, where: str) -> ConfigError:
    mistakes = error.errors(include_url=False)
    # An unknown name explains why another one is missing, and comes first.
    first = next((mistake for mistake in mistakes if mistake["type"] == "extra_forbidden"), mistakes[0])
    other_mistakes = [mistake for mistake in mistakes if mistake is not first]
    path = _path(first["loc"])
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
    branches = [_literal(other) for other in other_mistakes if _path(other["loc"]) == path]
    return ConfigError(spot, expected=" or ".join([message, *filter(None, branches)]), got=first.get("input"))


_BRANCHES = {"bool", "int", "float", "str", "constrained-int", "constrained-float"}
"""Names of plain types, which pydantic adds to the path of a mistake in a setting of several types."""


def _path(location: tuple[int | str, ...]) -> list[int | str]:
    """The path of a mistake without the names of types and validators."""
    tags = ("function-", "literal[", "constrained-")
    parts = [part for part in location if not (isinstance(part, str) and part.startswith(tags))]
    while len(parts) > 1 and parts[-1] in _BRANCHES:
        parts.pop()
    return parts


def _literal(mistake: Any) -> str | None:
    """The words that the other type of a setting allows."""
    if mistake["type"] != "literal_error":
        return None
    return str(mistake["ctx"]["expected"]).replace("'", "`")


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
        settings_class = _settings_in(inner)
        if settings_class:
            return settings_class
    return None
