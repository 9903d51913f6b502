"""Registries: entries by name, entry points of other packages, and the documentation of both."""

from __future__ import annotations

from importlib.metadata import EntryPoint

import pytest

from tests.registries import ROOT, entry_point_groups
from vita.spine import registry
from vita.spine.errors import ConfigError
from vita.spine.registry import Registry


def test_an_entry_is_found_by_its_name_and_an_unknown_name_suggests_the_closest() -> None:
    filters = Registry[int]("filter")
    filters.add("short")(1)
    assert filters["short"] == 1
    assert filters.names() == ["short"]
    with pytest.raises(ConfigError, match="did you mean `short`"):
        filters["shor"]
    with pytest.raises(ConfigError, match="filter `short`: is already registered"):
        filters.add("short")(2)


def test_other_packages_add_entries_through_an_entry_point_group(monkeypatch: pytest.MonkeyPatch) -> None:
    groups: list[str] = []

    def entry_points(*, group: str) -> list[EntryPoint]:
        groups.append(group)
        return [EntryPoint("root", "math:sqrt", group)]

    monkeypatch.setattr(registry, "entry_points", entry_points)
    assert Registry("preference_loss", plural="preference_losses")["root"](9.0) == 3.0
    assert "root" in Registry("filter")
    assert groups == ["vita.preference_losses", "vita.filters"]


def test_the_page_about_extending_names_the_entry_point_group_of_every_registry() -> None:
    page = (ROOT / "docs/extending.md").read_text()
    groups = entry_point_groups()
    assert len(groups) > 15
    assert {group for group in groups if f"`{group}`" not in page} == set()
