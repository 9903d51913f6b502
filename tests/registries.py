"""The registries of Vita and their entry-point groups, read from the source code."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]


def entry_point_groups() -> set[str]:
    """Return the entry-point group of every registry, such as `vita.filters`."""
    groups = set()
    for path in (ROOT / "vita").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Call(func=ast.Name(id="Registry") | ast.Subscript(value=ast.Name(id="Registry"))):
                    kind = ast.literal_eval(node.args[0])
                    plurals = [ast.literal_eval(keyword.value) for keyword in node.keywords if keyword.arg == "plural"]
                    groups.add(f"vita.{[*plurals, kind + 's'][0]}")
                case _:
                    pass
    return groups
