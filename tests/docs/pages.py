"""What the reader of each page has, types, and cannot run."""

from __future__ import annotations

from pathlib import Path

from tests.docs import material
from tests.docs.reader import Page


def readme_files(folder: Path) -> None:
    """The files that the README's example reads."""
    material.write_notes(folder / "notes")
    material.write_dialogues(folder / "conversations.jsonl")
    material.write_pairs(folder / "pairs.jsonl")
    material.write_prompts(folder / "questions.jsonl")


TESTS = "it runs the whole test suite, this test included"
TEN_MINUTES = "it installs Vita and trains for ten minutes"

PAGES = {
    "README.md": Page(
        files=readme_files,
        from_readme=False,
        typed={"vita chat": "What did I write about tea?\n"},
        not_run={"make life": TEN_MINUTES, "make test": TESTS},
    ),
}
