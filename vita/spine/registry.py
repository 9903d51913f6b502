"""Registries: named tables filled by a decorator, extensible by other packages through entry points.

FILTERS = Registry[Callable]("filter")

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

T = TypeVar("T")


class Registry(Generic[T]):
    """A table of named entries of one kind; other packages add entries under the entry-point group `vita.<plural>`."""

    def __init__(self, kind: str, *, plural: str | None = None) -> None:
        """`kind` names an entry in messages; `plural` is `<kind>s` by default."""
        self.kind, self.group = kind, f"vita.{plural or kind + 's'}"
        self._entries: dict[str, T] = {}
        self._entry_points: dict[str, T] | None = None

    def add(self, name: str) -> Callable[[T], T]:
        """Return a decorator that registers an entry under `name`; a name can be registered once."""

        def register(entry: T) -> T:
            if name in self._entries:
                raise ConfigError(f"{self.kind} `{name}`", "is already registered")
            self._entries[name] = entry
            return entry

        return register

    def __getitem__(self, name: str) -> T:
        if name in self._entries:
            return self._entries[name]
        if name in self._load_entry_points():
            return self._load_entry_points()[name]
        raise unknown_name(self.kind, name, self.names())

    def __contains__(self, name: object) -> bool:
        return name in self._entries or name in self._load_entry_points()

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def names(self) -> list[str]:
        """Return all names, sorted."""
        return sorted({*self._entries, *self._load_entry_points()})

    def _load_entry_points(self) -> dict[str, T]:
        if self._entry_points is None:
            self._entry_points = {point.name: point.load() for point in entry_points(group=self.group)}
        return self._entry_points
