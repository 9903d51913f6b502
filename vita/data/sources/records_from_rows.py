"""Rows become records: documents, dialogues, and what was thought of answers, each with its provenance.

A row that cannot be used is an error with its place, or is dropped with its reason, as its source wants it.
"""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Any, Generic, TypeVar

from vita.data.records import Dialogue, Document, Drop, Preference, Rated
from vita.data.sources import dialogue_formats
from vita.data.sources import preference_formats as opinions
from vita.data.sources.dialogue_formats import Format
from vita.data.sources.fields import Misfit
from vita.data.sources.files import File
from vita.data.sources.flaws import Flaw
from vita.data.sources.messages import Messages
from vita.data.sources.preference_formats import Opinion, Pair, Verdict
from vita.data.sources.readers import READERS, Problem, Row, kind_of
from vita.data.sources.source import Source
from vita.spine.errors import DataError
from vita.spine.file_listing import printable

Dropped = Callable[[Drop], None]

TEXT_FIELDS = ("text", "content", "raw_content", "body", "document", "article")
"""Where a row's text is looked for, in this order, when the source does not say."""


class Unusable(Exception):
    """A row that cannot be used, with its problem."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.problem = problem


T = TypeVar("T")


def usable(
    rows: Iterable[Row | T],
    source: Source,
    make: Callable[[Row, Source], T],
    dropped: Dropped | None,
    *,
    repaired: Callable[[], None] | None = None,
) -> Iterator[T]:
    """Yield the records that `make` makes of rows; unusable rows are refused or dropped, as the source says.

    `repaired` is called before a record whose row held half surrogate pairs.
    """
    for row in rows:
        if not isinstance(row, Row):
            yield row  # an origin that makes records itself
            continue
        try:
            if row.problem:
                raise Unusable(row.problem)
            record = make(row, source)
        except Unusable as error:
            _refuse_or_drop(row, error.problem, source, dropped)
            continue
        if row.repaired and repaired:
            repaired()
        yield record


def _refuse_or_drop(row: Row, problem: Problem, source: Source, dropped: Dropped | None) -> None:
    reason, expected, got, hint = problem
    if source.on_bad_row == "error":
        raise DataError(row.where, expected=expected, got=got, hint=hint or "mend the row, or set `on_bad_row: drop`")
    if dropped:
        name = source.name or name_of(source)
        dropped(Drop(id_of(row, row.values or {}), name, reason, f"expected {expected}, got {got}"))


def document_of(row: Row, source: Source) -> Document:
    """The document in a row's text field."""
    values = row.values or {}
    field = source.text_field or next((name for name in TEXT_FIELDS if name in values), None)
    if field is None or not isinstance(text := values.get(field), str):
        raise Unusable(_no_text(values, field, source))
    return Document(id_of(row, values), text, *_provenance(row, values, source, {field}))


def _no_text(values: Mapping[str, Any], field: str | None, source: Source) -> Problem:
    if field is not None and field in values:
        return Problem("no_text", f"text in the field `{field}`", kind_of(values[field]))
    wanted = f"the field `{field}`" if source.text_field else f"a text field ({', '.join(TEXT_FIELDS)})"
    return Problem("no_text", wanted, f"only the fields {', '.join(values) or '(none)'}", "name it with `text_field`")


C = TypeVar("C")


class _Converter(Generic[C]):
    """Converts rows by their format, which each file's first row decides."""

    def __init__(
        self,
        detect: Callable[[Mapping[str, Any]], Format[C] | None],
        *,
        wanted: str,
        known: str,
        check: Callable[[Mapping[str, Any], Format[C], C], None] | None = None,
    ) -> None:
        """`check` raises `Misfit` for a row that cannot be used although it can be converted."""
        self._detect, self._wanted, self._known, self._check = detect, wanted, known, check
        self._format: tuple[str, Format[C]] | None = None

    def __call__(self, row: Row) -> tuple[C, frozenset[str]]:
        """What the row says, and the fields that were read for it."""
        values = row.values or {}
        if self._format is None or self._format[0] != row.place:
            self._format = (row.place, self._of(row))
        format = self._format[1]
        if not format.fits(values):
            wanted = f"a row of the format {format.describe()}, as the first row of this file is"
            raise Unusable(Problem("misfit", wanted, f"the fields {', '.join(values) or '(none)'}"))
        try:
            converted = format.read(values)
            if self._check:
                self._check(values, format, converted)
            return converted, format.reads
        except Misfit as error:
            wanted = f"a row of the format {format.describe()}"
            raise Unusable(Problem(error.reason, wanted, str(error), error.hint)) from None

    def _of(self, row: Row) -> Format[C]:
        found = self._detect(row.values or {})
        if found is None:
            got = f"the fields {', '.join(row.values or {}) or '(none)'}"
            raise DataError(row.where, expected=f"{self._wanted} in one of the formats {self._known}", got=got)
        return found


class DialogueMaker:
    """Makes dialogues of rows."""

    def __init__(self) -> None:
        known = "; ".join(dialogue_formats.FORMATS[name].describe() for name in dialogue_formats.FORMATS)
        self._convert: _Converter[Messages] = _Converter(
            dialogue_formats.detect, wanted="a dialogue", known=known, check=dialogue_formats.check_single_dialogue
        )

    def __call__(self, row: Row, source: Source) -> Dialogue:
        messages, reads = self._convert(row)
        values = row.values or {}
        _check_label(values, reads)
        return Dialogue(id_of(row, values), tuple(messages), *_provenance(row, values, source, reads))


class OpinionMaker:
    """Makes of each row the preferences or ratings that it tells."""

    def __init__(self, dropped: Dropped | None) -> None:
        known = "; ".join(opinions.FORMATS[name].describe() for name in opinions.FORMATS)
        self._convert: _Converter[list[Opinion]] = _Converter(opinions.detect, wanted="a preference", known=known)
        self._dropped = dropped

    def __call__(self, row: Row, source: Source) -> list[Preference | Rated]:
        found, reads = self._convert(row)
        values = row.values or {}
        name, licence, metadata = _provenance(row, values, source, reads)
        records = []
        for number, opinion in enumerate(found, 1):
            id = id_of(row, values) + (f"/{number}" if len(found) > 1 else "")
            match opinions.examined(opinion):
                case Flaw(reason, detail):
                    if self._dropped:
                        self._dropped(Drop(id, name, reason, detail))
                case Pair(prompt, chosen, rejected, margin):
                    records.append(Preference(id, prompt, chosen, rejected, name, licence, margin, metadata))
                case Verdict(prompt, answer, good):
                    records.append(Rated(id, prompt, answer, good, name, licence, metadata))
        return records


def _check_label(values: Mapping[str, Any], reads: Iterable[str]) -> None:
    """Refuse an answer that its row calls bad: read as a dialogue it would be imitated."""
    for name in ("label", "kto_tag"):
        if values.get(name) is False and name not in reads:
            got = f"`{name}` false: an answer that was found bad"
            hint = "learn from it with `dpo` and the loss `kto`, or set `on_bad_row: drop`"
            raise Unusable(Problem("rated_bad", "an answer to imitate", got, hint))


_PROVENANCE_FIELDS = {"id", "source", "license", "licence", "metadata"}


def id_of(row: Row, values: Mapping[str, Any]) -> str:
    """The row's own `id`, or its place."""
    own = values.get("id")
    if isinstance(own, (str, int)) and own != "":
        return str(own)
    return f"{row.name}:{row.number}" if row.number else row.name


def _provenance(
    row: Row, values: Mapping[str, Any], source: Source, used: Iterable[str]
) -> tuple[str, str | None, dict[str, Any]]:
    """(source, licence, metadata); fields that are nothing else become metadata."""
    own, metadata = values.get("source"), values.get("metadata")
    rest = {name: value for name, value in values.items() if name not in _PROVENANCE_FIELDS and name not in used}
    if isinstance(metadata, Mapping):
        rest.update(metadata)
    elif metadata is not None:
        rest["metadata"] = metadata
    own = own if isinstance(own, str) and own else None
    if own and source.name and own != source.name:
        rest.setdefault("source", own)
    licence = values.get("license") or values.get("licence")
    return (
        source.name or own or name_of(source),
        licence if isinstance(licence, str) else source.licence,
        rest,
    )


def name_of(source: Source) -> str:
    """What a source is called that has no name: by its files, its data set, or the world."""
    return _last_name(source.path or source.huggingface or "world")


@lru_cache
def _last_name(path: str) -> str:
    """`books` of `../books/**/*.txt` and of `books.jsonl.zst`: one name, however many files there are."""
    parts = [part for part in PurePosixPath(path).parts if not glob.has_magic(part) and part.strip("./")]
    name = printable(parts[-1]) if parts else "text"
    return name.split(".")[0] or name if File(name, name, 0).suffix in READERS else name
