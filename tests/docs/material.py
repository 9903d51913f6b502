"""A reader's files in the examples: real text, dialogues and preferences from the docstrings of Python's library.

The text is English prose written by people, comes with every interpreter, and needs no network.
"""

from __future__ import annotations

import ast
import json
import sysconfig
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

_SKIPPED = {"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3"}


@cache
def docstrings() -> dict[str, str]:
    """Qualified name -> docstring, for the modules, classes and functions of Python's library."""
    return dict(_docstrings(Path(sysconfig.get_path("stdlib"))))


def _docstrings(library: Path) -> Iterator[tuple[str, str]]:
    for path in sorted([*library.glob("*.py"), *library.glob("*/*.py")]):
        parts = path.relative_to(library).with_suffix("").parts
        if _SKIPPED & set(parts):
            continue
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError):
            continue
        module = ".".join(parts).removesuffix(".__init__")
        for node in ast.walk(tree):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and (text := ast.get_docstring(node)):
                yield module if isinstance(node, ast.Module) else f"{module}.{node.name}", text


@cache
def answers() -> tuple[tuple[str, str], ...]:
    """(question, answer) for public names: the first paragraph of the docstring, if it is a sentence or two."""
    pairs = []
    for name, text in docstrings().items():
        first = text.split("\n\n")[0].replace("\n", " ")
        if not name.rpartition(".")[2].startswith("_") and 4 <= len(first.split()) <= 40:
            pairs.append((f"What is {name}?", first))
    return tuple(pairs)


def write_notes(folder: Path, *, files: int = 800) -> None:
    """One text file per docstring of at least 60 words."""
    folder.mkdir(parents=True, exist_ok=True)
    long = [(name, text) for name, text in docstrings().items() if len(text.split()) >= 60]
    for name, text in long[:files]:
        (folder / f"{name}.txt").write_text(text + "\n", encoding="utf-8")


def write_dialogues(path: Path, *, rows: slice = slice(0, 200)) -> None:
    """Dialogues in the `messages` format."""
    write_rows(
        path,
        (
            {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}
            for question, answer in answers()[rows]
        ),
    )


def write_pairs(path: Path, *, rows: slice = slice(200, 320)) -> None:
    """Preference pairs: the answer of the question is preferred to the answer of another question."""
    chosen = answers()[rows]
    rejected = (*chosen[7:], *chosen[:7])
    write_rows(
        path,
        (
            {"prompt": question, "chosen": answer, "rejected": other}
            for (question, answer), (_, other) in zip(chosen, rejected, strict=True)
        ),
    )


def write_prompts(path: Path, *, rows: slice = slice(320, 328)) -> None:
    """Prompts, each with the expected answer."""
    write_rows(path, ({"prompt": question, "answer": answer} for question, answer in answers()[rows]))


def write_rows(path: Path, rows: Iterator[dict[str, Any]]) -> None:
    """One JSON object per line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
