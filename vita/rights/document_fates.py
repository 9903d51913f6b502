"""The use of documents in a corpus: in the training text, held out, or dropped as a copy of another document.

for match in document_matches(folder, "mail/7"): match.use, match.explanation
for match in group_matches(folder, RightsQuery(source="mail")): match.use, match.documents
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import orjson

from vita.data.curation.corpus import parse_document, read_lines
from vita.data.records import Document
from vita.data.sources.erased import text_hash
from vita.rights.query import RightsQuery
from vita.spine.erasures import is_source
from vita.spine.plain_text import counted

Use = Literal["trained on", "held out", "not used"]
_USES: dict[str, Use] = {"train": "trained on", "heldout": "held out"}

_COPIES = {"duplicate": "a copy", "near_duplicate": "a near copy"}
"""Drop reasons of documents that another document of the corpus replaces, with the words for explanations."""
DROPS = "drops.jsonl.zst"


@dataclass(frozen=True)
class DocumentMatch:
    """The use of one document, or of a group of documents, in a corpus."""

    source: str
    id: str
    """The id of its text in the corpus; empty for a group."""
    use: Use
    explanation: str
    content: str | None = None
    """The hash of its text, if the text is in the corpus."""
    sibling: bool = False
    """The document is another text of the same source with the same id, and was renamed."""
    near_content: str | None = None
    """The hash of the text that was dropped as a near copy."""
    relation: str = ""
    """The relation of a document with another id that is excluded too: `a copy`, `a near copy` or `the same text`."""
    dropped_from: str | None = None
    """The source of a document with the requested id that curation dropped; None for a document that stayed."""
    documents: int = 1
    files: tuple[str, ...] = ()
    """Files of the corpus with its text."""


def document_matches(folder: Path, document: str, *, source: str | None = None) -> list[DocumentMatch]:
    """Return the use of every document with this id (only of `source`, if given), and of their dropped copies."""
    dropped = [row for row in _drops(folder) if row["id"] == document and is_source(source, row["source"])]
    originals = {_original(row) for row in dropped if row["reason"] in _COPIES}

    def fits(row: Document) -> bool:
        by_id = (row.id == document or _is_renamed(row.id, document)) and is_source(source, row.source)
        return by_id or (row.source, row.id) in originals or (None, row.id) in originals

    kept = _kept(folder, fits)
    answers = [
        replace(fate, sibling=_is_renamed(fate.id, document)) for fate in kept
        if (fate.id == document or _is_renamed(fate.id, document)) and is_source(source, fate.source)
    ]  # fmt: skip
    answers += [_of_drop(row, kept) for row in dropped]
    requested = {(fate.source, fate.id) for fate in answers if fate.id == document and not fate.sibling}
    return answers + [_of_copy(row) for row in _drops(folder) if _is_copy_of(row, requested)]


def copies(folder: Path, contents: set[str]) -> list[DocumentMatch]:
    """Return the use of every document with one of these contents and any id."""
    kept = _kept(folder, lambda row: text_hash(row.text) in contents)
    return [
        replace(fate, explanation=f"the same text as {fate.id}: {fate.explanation}", relation="the same text")
        for fate in kept
    ]


def dropped_names(folder: Path) -> tuple[set[str], set[str]]:
    """Return (sources, licences) of the documents that curation dropped; older corpora name no licences."""
    rows = [(str(row["source"]), row.get("licence")) for row in _drops(folder)]
    return {source for source, _ in rows}, {licence for _, licence in rows if licence}


def group_matches(folder: Path, query: RightsQuery) -> list[DocumentMatch]:
    """Return the number of documents of a source or licence with each use.

    Drops in corpora of earlier versions have no licence.
    """
    groups: dict[tuple[str, Use], DocumentMatch] = {}
    known: set[int] = set()
    for part, use in _USES.items():
        for file, row in _documents(folder, part):
            if not query.includes(row.source, row.licence):
                continue
            group = groups.get((row.source, use)) or DocumentMatch(row.source, "", use, "", documents=0)
            is_new = (key := hash((part, row.source, row.id))) not in known  # training files repeat documents
            known.add(key)
            files = group.files if file in group.files else (*group.files, file)
            groups[row.source, use] = replace(group, documents=group.documents + is_new, files=files)
    matches = [
        replace(group, explanation=f"{counted(group.documents, 'document')} {_place(use)}")
        for (_, use), group in groups.items()
    ]  # fmt: skip
    reasons: dict[str, Counter[str]] = {}
    for row in _drops(folder):
        has_licence = query.licence is None or "licence" in row
        if has_licence and query.includes(row["source"], row.get("licence")):
            reasons.setdefault(str(row["source"]), Counter())[str(row["reason"])] += 1
    for source, counts in reasons.items():
        detail = ", ".join(f"{reason}: {number:,}" for reason, number in counts.most_common())
        total = counts.total()
        text = f"{counted(total, 'document')} dropped ({detail}), not trained on"
        matches.append(DocumentMatch(source, "", "not used", text, documents=total))
    return matches


def _kept(folder: Path, fits: Callable[[Document], bool]) -> list[DocumentMatch]:
    """Return the use of the documents in both splits that fit, each with its files."""
    matches: dict[tuple[str, str, str], DocumentMatch] = {}
    for part, use in _USES.items():
        for file, row in _documents(folder, part):
            if not fits(row):
                continue
            key = (part, row.source, row.id)
            match = matches.get(key) or DocumentMatch(row.source, row.id, use, _place(use), text_hash(row.text))
            matches[key] = match if file in match.files else replace(match, files=(*match.files, file))
    return list(matches.values())


def _documents(folder: Path, part: str) -> Iterator[tuple[str, Document]]:
    for shard in sorted((folder / part).glob("*.jsonl.zst")):
        for line in read_lines(shard):
            yield f"{part}/{shard.name}", parse_document(line)


def _drops(folder: Path) -> Iterator[dict[str, Any]]:
    path = folder / DROPS
    return map(orjson.loads, read_lines(path)) if path.is_file() else iter(())


def _original(row: dict[str, Any]) -> tuple[str | None, str]:
    """Return (source, id) of the document that a duplicate repeats; older corpora name no source."""
    if "repeats" in row:
        return row["repeats"]["source"], row["repeats"]["id"]
    return None, str(row["detail"]).removeprefix("repeats ")


def _is_copy_of(row: dict[str, Any], requested: set[tuple[str, str]]) -> bool:
    return row["reason"] in _COPIES and "repeats" in row and _original(row) in requested


def _is_renamed(id: str, document: str) -> bool:
    return id.startswith(f"{document}#") and id[len(document) + 1 :].isdigit()


def _place(use: Use) -> str:
    return "in the training text" if use == "trained on" else "held out: evaluated on, not trained on"


def _of_copy(row: dict[str, Any]) -> DocumentMatch:
    """Return the match of a document that was dropped as a copy of the requested document."""
    reason, content = str(row["reason"]), row.get("content")
    detail = f"`{row['id']}` was dropped as {_COPIES[reason]} of it, not trained on"
    is_excluded = reason == "duplicate" or content is not None  # older corpora have no hashes of near copies
    relation = _COPIES[reason] if is_excluded else ""
    return DocumentMatch(
        str(row["source"]), str(row["id"]), "not used", detail, near_content=content, relation=relation
    )


def _of_drop(row: dict[str, Any], originals: list[DocumentMatch]) -> DocumentMatch:
    source, id, reason, content = str(row["source"]), str(row["id"]), str(row["reason"]), row.get("content")
    if reason not in _COPIES:
        detail = f"dropped ({reason}: {row['detail']}), not trained on"
        return DocumentMatch(source, id, "not used", detail, dropped_from=source)
    original_source, original = _original(row)
    for fate in originals:
        if fate.id == original and original_source in (None, fate.source):
            detail = f"dropped as {_COPIES[reason]} of `{fate.id}` of {fate.source}, which is {fate.explanation}"
            return replace(
                fate, explanation=detail, near_content=content, relation=_COPIES[reason], dropped_from=source
            )
    detail = f"dropped as {_COPIES[reason]} of `{original}`, which is not in this corpus"
    return DocumentMatch(source, id, "not used", detail, near_content=content, dropped_from=source)
