"""The use of a document in a corpus: in the training text, held out, or dropped as a copy of another document.

for match in document_matches(folder, "mail/7"): match.use, match.explanation
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import orjson

from vita.data.curation.corpus import read_corpus, read_lines
from vita.data.sources.erased import text_hash

Use = Literal["trained on", "held out", "not used"]
PARTS: tuple[Literal["train", "heldout"], ...] = ("train", "heldout")
_USES: dict[str, Use] = {"train": "trained on", "heldout": "held out"}

_COPIES = {"duplicate": "a copy", "near_duplicate": "a near copy"}
"""Drop reasons of documents that another document of the corpus replaces, with the words for explanations."""


@dataclass(frozen=True)
class DocumentMatch:
    """The use of one document that matches the requested id or content."""

    source: str
    id: str
    """The id of its text in the corpus."""
    use: Use
    explanation: str
    content: str | None = None
    """The hash of its text, if the text is in the corpus."""
    sibling: bool = False
    """The document is another text of the same source with the same id, and was renamed."""


def document_matches(folder: Path, document: str, *, source: str | None = None) -> list[DocumentMatch]:
    """Return the use of every document with this id (only of `source`, if given)."""
    dropped = [row for row in _drops(folder) if row["id"] == document and source in (None, row["source"])]
    originals = {_original(row) for row in dropped if row["reason"] in _COPIES}
    fates_by_document: dict[tuple[str, str, str], DocumentMatch] = {}
    for part in PARTS:
        for row in _documents(folder, part):
            matches = row.id == document or _is_renamed(row.id, document)
            if (part, row.source, row.id) in fates_by_document or not (
                matches or _select(row.source, row.id, originals)
            ):
                continue
            if matches and source not in (None, row.source) and not _select(row.source, row.id, originals):
                continue
            fates_by_document[part, row.source, row.id] = DocumentMatch(
                row.source, row.id, _USES[part], _explanation(part), text_hash(row.text), _is_renamed(row.id, document)
            )
    answers = [
        fate for fate in fates_by_document.values()
        if (fate.id == document or fate.sibling) and source in (None, fate.source)
    ]  # fmt: skip
    return answers + [_of_drop(row, list(fates_by_document.values())) for row in dropped]


def copies(folder: Path, contents: set[str]) -> list[DocumentMatch]:
    """Return the use of every document with one of these contents and any id."""
    fates_by_document: dict[tuple[str, str], DocumentMatch] = {}
    for part in PARTS:
        for row in _documents(folder, part):
            if (row.source, row.id) not in fates_by_document and (content := text_hash(row.text)) in contents:
                fates_by_document[row.source, row.id] = DocumentMatch(
                    row.source, row.id, _USES[part], f"the same text as {row.id}: {_explanation(part)}", content
                )
    return list(fates_by_document.values())


def _documents(folder: Path, part: Literal["train", "heldout"]) -> Iterator:
    return read_corpus(folder, part) if (folder / part).is_dir() else iter(())


def _drops(folder: Path) -> Iterator[dict]:
    path = folder / "drops.jsonl.zst"
    return map(orjson.loads, read_lines(path)) if path.is_file() else iter(())


def _original(row: dict) -> tuple[str | None, str]:
    """Return (source, id) of the document that a duplicate repeats; older corpora name no source."""
    if "repeats" in row:
        return row["repeats"]["source"], row["repeats"]["id"]
    return None, str(row["detail"]).removeprefix("repeats ")


def _select(source: str, id: str, originals: set[tuple[str | None, str]]) -> bool:
    return (source, id) in originals or (None, id) in originals


def _is_renamed(id: str, document: str) -> bool:
    return id.startswith(f"{document}#") and id[len(document) + 1 :].isdigit()


def _explanation(part: str) -> str:
    return "in the training text" if part == "train" else "held out: evaluated on, not trained on"


def _of_drop(row: dict, originals: list[DocumentMatch]) -> DocumentMatch:
    source, id, reason = str(row["source"]), str(row["id"]), str(row["reason"])
    if reason not in _COPIES:
        return DocumentMatch(source, id, "not used", f"dropped ({reason}: {row['detail']}), not trained on")
    original_source, original = _original(row)
    for fate in originals:
        if fate.id == original and original_source in (None, fate.source):
            detail = f"dropped as {_COPIES[reason]} of `{fate.id}` of {fate.source}, which is {fate.explanation}"
            return DocumentMatch(source, fate.id, fate.use, detail, fate.content)
    return DocumentMatch(
        source, id, "not used", f"dropped as {_COPIES[reason]} of `{original}`, which is not in this corpus"
    )
