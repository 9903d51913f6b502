"""`vita trace` and `vita ls` on large stores: every artifact once, at any depth, with a few queries."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import event

from tests.cli.test_cli import Vita, vita
from tests.lineages import write_lineage

__all__ = ["vita"]


@contextmanager
def counted_queries() -> Iterator[list[str]]:
    """The SELECT statements that are executed in the block."""
    statements: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if statement.lstrip().upper().startswith(("SELECT", "WITH")):
            statements.append(statement)

    event.listen(sa.Engine, "before_cursor_execute", note)
    try:
        yield statements
    finally:
        event.remove(sa.Engine, "before_cursor_execute", note)


def test_a_chain_of_a_thousand_versions_is_traced_to_its_end_in_a_narrow_window(
    vita: Vita, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_lineage(tmp_path / "vita-store", {f"v{n}": [f"v{n - 1}"] if n else [] for n in range(1000)})
    monkeypatch.setenv("COLUMNS", "80")
    with counted_queries() as statements:
        code, out, err = vita("trace", "life/v999")
    assert code == 0, err
    assert len(statements) < 20
    lines = [line for line in out.splitlines() if "by sft" in line]
    assert len(lines) == 999 and "life/v0 model" in lines[-1] and lines[-1].split()[0] == "999"


def test_versions_that_take_from_two_earlier_ones_are_each_shown_once(vita: Vita, tmp_path: Path) -> None:
    graph = {f"v{n}": [f"v{n - 1}", f"v{n - 2}"] if n > 1 else [] for n in range(40)}
    write_lineage(tmp_path / "vita-store", graph)
    code, out, _ = vita("trace", "life/v39")
    lines = [line for line in out.splitlines() if "by sft" in line]
    assert code == 0 and len(lines) == sum(map(len, graph.values())), "one line for each edge, not for each path"
    shown = [line for line in lines if "(shown at" not in line]
    assert len(shown) == 39 and sum("life/v20 " in line for line in shown) == 1


def test_a_trace_says_what_lies_beyond_its_depth(vita: Vita, tmp_path: Path) -> None:
    write_lineage(tmp_path / "vita-store", {f"v{n}": [f"v{n - 1}"] if n else [] for n in range(10)})
    code, out, _ = vita("trace", "life/v6", "--depth", "2")
    assert code == 0
    assert "not shown: 4 artifacts further than --depth 2" in out
    assert "not shown: 1 artifact further" in out.partition("went into")[2]
    traced = json.loads(vita("trace", "life/v6", "--depth", "2", "--json")[1])
    assert [one["distance"] for one in traced["made_from"]] == [1, 2]
    assert traced["left_out"] == {"made_from": 4, "went_into": 1}
    whole = json.loads(vita("trace", "life/v6", "--json")[1])
    assert len(whole["made_from"]) == 6 and len(whole["went_into"]) == 3
    assert whole["made_from"][0]["names"] == ["life/v5"] and whole["made_from"][0]["of"] == whole["digest"]


def test_a_list_of_artifacts_takes_as_many_queries_for_many_as_for_few(vita: Vita, tmp_path: Path) -> None:
    write_lineage(tmp_path / "vita-store", {f"v{n}": [] for n in range(300)})
    with counted_queries() as statements:
        code, out, _ = vita("ls", "--json")
    assert code == 0 and len(json.loads(out)) == 300
    assert len(statements) < 10
