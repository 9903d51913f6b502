"""Registries: named tables filled by a decorator, extensible by other packages through entry points.

FILTERS = Parts[Callable]("filter")

@FILTERS.add("too_short")
def too_short(document): ...

FILTERS["too_short"]       # an unknown name raises an error that suggests the closest name
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from typing import Generic, TypeVar

from vita.spine.config import unknown_name
from vita.spine.errors import ConfigError

P = TypeVar("P")


class Parts(Generic[P]):
    """A registry of parts of one kind; other packages add parts under the entry-point group `vita.<kind>s`."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._parts: dict[str, P] = {}
        self._entry_points: dict[str, P] | None = None

    def add(self, name: str) -> Callable[[P], P]:
        """Return a decorator that registers a part under `name`; a name can be registered once."""

        def register(part: P) -> P:
            if name in self._parts:
                raise ConfigError(f"{self.kind} `{name}`", "is already registered")
            self._parts[name] = part
            return part

        return register

    def __getitem__(self, name: str) -> P:
        if name in self._parts:
            return self._parts[name]
        if name in self._load_entry_points():
            return self._load_entry_points()[name]
        raise unknown_name(self.kind, name, self.names())

    def __contains__(self, name: object) -> bool:
        return name in self._parts or name in self._load_entry_points()

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def names(self) -> list[str]:
        """Return all names, sorted."""
        return sorted({*self._parts, *self._load_entry_points()})

    def _load_entry_points(self) -> dict[str, P]:
        if self._entry_points is None:
            self._entry_points = {point.name: point.load() for point in entry_points(group=f"vita.{self.kind}s")}
        return self._entry_points
