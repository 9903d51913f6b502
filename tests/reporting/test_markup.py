"""Only templates and the chart module contain markup; stages return data for the pages."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2] / "vita"
TAG = re.compile(r"</?(?:table|tr|td|th|div|span|p|h[1-6]|ul|li|svg|path|details|summary|section|style)(?: [^>]*)?>")
TABLE_SEPARATOR = re.compile(r"\|\s*:?-{3,}")
READS_MARKUP = {"data", "redteam"}
"""Packages that read HTML of corpora, or send it to a model as a test."""
BLOCKS = {"Table", "Sample", "Details"}


def modules() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        yield path.relative_to(PACKAGE).as_posix(), ast.parse(path.read_text(encoding="utf-8"))


def test_no_module_contains_html_or_a_markdown_table() -> None:
    strings = [
        (name, node.value)
        for name, tree in modules()
        if name.split("/")[0] not in READS_MARKUP
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    assert not [(name, text[:80]) for name, text in strings if TAG.search(text) or TABLE_SEPARATOR.search(text)]


def test_stages_and_measurements_return_data_and_build_no_blocks_of_a_page() -> None:
    builders = [
        (name, alias.name)
        for name, tree in modules()
        if name.split("/")[0] not in ("reporting", "cards")
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == "vita.reporting.page"
        for alias in node.names
        if alias.name in BLOCKS
    ]
    assert not builders
