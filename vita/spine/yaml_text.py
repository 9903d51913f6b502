"""YAML for settings: plain values only, no duplicate names, finite numbers, limited size.

Scalars follow YAML 1.2: `no` is text, `1e-3` is a number, `1:30` and `2027-01-31` are text.
Every mistake in the text is a `yaml.YAMLError` with its line; `read_yaml` turns it into a `ConfigError`.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import yaml

from vita.spine.errors import ConfigError

MAX_BYTES = 8 * 2**20
"""Largest file that is read as settings."""
MAX_NODES = 100_000
"""Maximum number of values after aliases are expanded; more is an alias bomb."""
MAX_DEPTH = 64
"""Maximum nesting depth of lists and mappings."""


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read the mapping of a YAML file."""
    value = _parse_file(Path(path))
    if not isinstance(value, dict):
        kind = "an empty file" if value is None else type(value).__name__
        raise ConfigError(str(path), expected="settings as `name: value`", got=kind)
    return value


def yaml_value(text: str) -> Any:
    """Parse one value as in a settings file; raises `yaml.YAMLError` if the text is not valid."""
    try:
        return yaml.load(text, Loader=_SettingsLoader)
    except (ValueError, RecursionError) as error:
        raise yaml.YAMLError(f"cannot be parsed: {error}") from None


def _parse_file(path: Path) -> Any:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ConfigError(str(path), expected=f"a YAML file of at most {MAX_BYTES // 2**20} MB", got="a larger one")
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(str(path), "no such file") from None
    except IsADirectoryError:
        raise ConfigError(str(path), expected="a YAML file", got="a folder") from None
    except UnicodeDecodeError as error:
        raise ConfigError(
            str(path), expected="YAML text in UTF-8", got=f"bytes that are not ({error.reason})"
        ) from None
    except (OSError, ValueError) as error:
        raise ConfigError(str(path), f"cannot be read: {getattr(error, 'strerror', None) or error}") from None
    try:
        return yaml_value(text)
    except yaml.YAMLError as error:
        raise ConfigError(str(path), f"is not YAML: {' '.join(str(error).split())}") from None


class _SettingsLoader(yaml.SafeLoader):
    """Loader of plain values that refuses duplicates, alias bombs, deep nesting and non-finite numbers."""

    def __init__(self, stream: Any) -> None:
        super().__init__(stream)
        self._depth = self._nodes = 0
        self._sizes: dict[int, int] = {}  # id(node) -> values inside it, aliases expanded

    def compose_node(self, parent: Any, index: Any) -> Any:
        alias = self.check_event(yaml.AliasEvent)
        start, mark = self._nodes, self.peek_event().start_mark
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise yaml.YAMLError(f"nested more than {MAX_DEPTH} levels deep ({_line(mark)})")
        node = super().compose_node(parent, index)
        self._depth -= 1
        if alias and id(node) not in self._sizes:
            raise yaml.YAMLError(f"an alias refers to the value that contains it ({_line(mark)})")
        self._nodes += self._sizes[id(node)] if alias else 1
        if self._nodes > MAX_NODES:
            raise yaml.YAMLError(f"holds more than {MAX_NODES:,} values after its aliases are expanded ({_line(mark)})")
        if not alias:
            self._sizes[id(node)] = self._nodes - start
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        names: set[Any] = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise yaml.YAMLError(f"a name must be plain text ({_line(key_node.start_mark)})")
            name = self.construct_object(key_node, deep=True)
            if name in names:
                raise yaml.YAMLError(f"`{name}` is set twice ({_line(key_node.start_mark)})")
            if name != "<<":
                names.add(name)
        return super().construct_mapping(node, deep)

    def construct_finite(self, node: Any) -> float:
        value = self.construct_yaml_float(node)
        if not math.isfinite(value):
            raise yaml.YAMLError(f"`{node.value}` is not a finite number ({_line(node.start_mark)})")
        return value

    def construct_integer(self, node: Any) -> int:
        text = node.value.replace("_", "")
        try:
            value = int(text, 0)
            if abs(value) < 2**64:
                return value
            raise ValueError
        except ValueError:
            excerpt = text if len(text) <= 40 else f"{text[:20]}... ({len(text)} digits)"
            raise yaml.YAMLError(
                f"`{excerpt}` is not an integer of at most 64 bits ({_line(node.start_mark)})"
            ) from None


def _line(mark: Any) -> str:
    return f"line {mark.line + 1}"


def _tag(name: str) -> str:
    return f"tag:yaml.org,2002:{name}"


_PLAIN = ("null", "bool", "int", "float", "str", "seq", "map")
_SettingsLoader.yaml_constructors = {
    tag: construct
    for tag, construct in yaml.SafeLoader.yaml_constructors.items()
    if tag is None or tag in map(_tag, _PLAIN)
}
_SettingsLoader.add_constructor(_tag("float"), _SettingsLoader.construct_finite)
_SettingsLoader.add_constructor(_tag("int"), _SettingsLoader.construct_integer)
_REPLACED = {_tag(name) for name in ("bool", "int", "float", "timestamp")}
_SettingsLoader.yaml_implicit_resolvers = {
    first: [(tag, form) for tag, form in forms if tag not in _REPLACED]
    for first, forms in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_SettingsLoader.add_implicit_resolver(_tag("bool"), re.compile("^(true|True|TRUE|false|False|FALSE)$"), list("tTfF"))
_SettingsLoader.add_implicit_resolver(
    _tag("int"), re.compile(r"^([-+]?(0|[1-9][0-9_]*)|0x[0-9a-fA-F_]+|0o[0-7_]+)$"), list("-+0123456789")
)
_SettingsLoader.add_implicit_resolver(
    _tag("float"),
    re.compile(
        r"^[-+]?([0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*|[0-9][0-9_]*(?=[eE]))([eE][-+]?[0-9]+)?$"
        r"|^[-+]?\.(inf|Inf|INF)$|^\.(nan|NaN|NAN)$"
    ),
    list("-+.0123456789"),
)
