"""Named tables filled by one decorator and open to other packages through entry points.

FILTERS = Parts[Callable]("filter")

@FILTERS.add("too_short")
def too_short(document): ...

FILTERS["too_short"]       # an unknown name answers with the nearest right one
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from typing import Generic, TypeVar

from vita.spine.config import unknown_name
from vita.spine.errors import ConfigError

P = TypeVar("P")


class Parts(Generic[P]):
    """A table of parts of one kind; other packages add theirs under the entry-point group `vita.<kind>s`."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._own: dict[str, P] = {}
        self._foreign: dict[str, P] | None = None

    def add(self, name: str) -> Callable[[P], P]:
        """Decorator: enter a part under `name`; a name is given once."""

        def enter(part: P) -> P:
            if name in self._own:
                raise ConfigError(f"{self.kind} `{name}`", "is already in the table")
            self._own[name] = part
            return part

        return enter

    def __getitem__(self, name: str) -> P:
        if name in self._own:
            return self._own[name]
        if name in self._others():
            return self._others()[name]
        raise unknown_name(self.kind, name, self.names())

    def __contains__(self, name: object) -> bool:
        return name in self._own or name in self._others()

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def names(self) -> list[str]:
        """All names, sorted."""
        return sorted({*self._own, *self._others()})

    def _others(self) -> dict[str, P]:
        if self._foreign is None:
            self._foreign = {point.name: point.load() for point in entry_points(group=f"vita.{self.kind}s")}
        return self._foreign
