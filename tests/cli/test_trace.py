"""`vita trace` and `vita ls` on large stores: every artifact appears once, at any depth, with a few queries."""

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
def record_queries() -> Iterator[list[str]]:
    """Record the SELECT statements that are executed in the block."""
    statements: list[str] = []

    def record_statement(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if statement.lstrip().upper().startswith(("SELECT", "WITH")):
            statements.append(statement)

    event.listen(sa.Engine, "before_cursor_execute", record_statement)
    try:
        yield statements
    finally:
        event.remove(sa.Engine, "before_cursor_execute", record_statement)


def test_a_chain_of_a_thousand_versions_is_traced_to_its_end_in_a_narrow_terminal(
    vita: Vita, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_lineage(tmp_path / "vita-store", {f"v{n}": [f"v{n - 1}"] if n else [] for n in range(1000)})
    monkeypatch.setenv("COLUMNS", "80")
    with record_queries() as statements:
        code, out, err = vita("trace", "life/v999")
    assert code == 0, err
    assert len(statements) < 20
    lines = [line for line in out.splitlines() if "by sft" in line]
    assert len(lines) == 999 and "life/v0 model" in lines[-1] and lines[-1].split()[0] == "999"


def test_each_version_with_two_predecessors_is_shown_once(vita: Vita, tmp_path: Path) -> None:
    graph = {f"v{n}": [f"v{n - 1}", f"v{n - 2}"] if n > 1 else [] for n in range(40)}
    write_lineage(tmp_path / "vita-store", graph)
    code, out, _ = vita("trace", "life/v39")
    lines = [line for line in out.splitlines() if "by sft" in line]
    assert code == 0 and len(lines) == sum(map(len, graph.values())), "one line for each edge, not for each path"
    full_lines = [line for line in lines if "(shown at" not in line]
    assert len(full_lines) == 39 and sum("life/v20 " in line for line in full_lines) == 1


def test_a_trace_counts_the_artifacts_beyond_its_depth(vita: Vita, tmp_path: Path) -> None:
    write_lineage(tmp_path / "vita-store", {f"v{n}": [f"v{n - 1}"] if n else [] for n in range(10)})
    code, out, _ = vita("trace", "life/v6", "--depth", "2")
    assert code == 0
    assert "not shown: 4 artifacts further than --depth 2" in out
    assert "not shown: 1 artifact further" in out.partition("went into")[2]
    limited_trace = json.loads(vita("trace", "life/v6", "--depth", "2", "--json")[1])
    assert [artifact["distance"] for artifact in limited_trace["made_from"]] == [1, 2]
    assert limited_trace["left_out"] == {"made_from": 4, "went_into": 1}
    full_trace = json.loads(vita("trace", "life/v6", "--json")[1])
    assert len(full_trace["made_from"]) == 6 and len(full_trace["went_into"]) == 3
    assert (
        full_trace["made_from"][0]["names"] == ["life/v5"] and full_trace["made_from"][0]["of"] == full_trace["digest"]
    )


def test_the_number_of_queries_of_a_list_does_not_depend_on_its_length(vita: Vita, tmp_path: Path) -> None:
    write_lineage(tmp_path / "vita-store", {f"v{n}": [] for n in range(300)})
    with record_queries() as statements:
        code, out, _ = vita("ls", "--json")
    assert code == 0 and len(json.loads(out)) == 300
    assert len(statements) < 10
