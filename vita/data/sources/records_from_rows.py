"""Conversion of rows to records: documents, dialogues, preferences and rated answers, with their provenance.

A row that cannot be used is an error with its file and row, or is dropped with its reason, according to its source.
"""

from __future__ import annotations

import glob
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Any, Generic, TypeVar

from vita.data.records import Dialogue, Document, DroppedRecord, Preference, TemplateVariables, UnpairedPreference
from vita.data.sources import dialogue_formats
from vita.data.sources import preference_formats as preference_formats
from vita.data.sources.content_types import SUFFIX_FORMATS
from vita.data.sources.dialogue_formats import RowFormat
from vita.data.sources.fields import TEMPLATE_FIELDS, TEXT_FIELDS, FormatMismatch
from vita.data.sources.files import SourceFile
from vita.data.sources.flaws import Flaw
from vita.data.sources.messages import Messages
from vita.data.sources.preference_formats import Opinion, PreferenceRow, UnpairedPreferenceRow
from vita.data.sources.readers import READERS, Row, RowProblem, json_type
from vita.data.sources.row_ids import STATED_ID, id_text, is_unusable_id
from vita.data.sources.source import Source
from vita.data.sources.tool_text import parse_tool_text
from vita.spine.errors import DataError
from vita.spine.file_listing import printable
from vita.spine.url_secrets import without_user_and_query

Dropped = Callable[[DroppedRecord], None]


class UnusableRow(Exception):
    """An error for a row that cannot be used, with its problem."""

    def __init__(self, problem: RowProblem) -> None:
        super().__init__(problem)
        self.problem = problem


T = TypeVar("T")


def convert_rows(
    rows: Iterable[Row | T],
    source: Source,
    make: Callable[[Row, Source], T],
    dropped: Dropped | None,
    *,
    converted: Callable[[Row], None] | None = None,
) -> Iterator[T]:
    """Yield the records that `make` creates from rows; unusable rows are refused or dropped according to the source.

    `converted` is called before each record with its row. A row that is skipped by design is dropped in every case.
    """
    for row in rows:
        if not isinstance(row, Row):
            yield row  # an origin that yields records
            continue
        try:
            if row.problem:
                raise UnusableRow(row.problem)
            record = make(row, source)
        except UnusableRow as error:
            _refuse_or_drop(row, error.problem, source, dropped)
            continue
        if converted:
            converted(row)
        yield record


def _refuse_or_drop(row: Row, problem: RowProblem, source: Source, dropped: Dropped | None) -> None:
    reason, expected, got, hint = problem
    if source.on_bad_row == "error" and not row.is_skipped:
        hint = hint or "correct the row, or set `on_bad_row: drop`"
        raise DataError(row.where, expected=expected, got=got, hint=hint, quoted=got)
    if dropped:
        name = source.name or default_name(source)
        dropped(DroppedRecord(record_id(row, row.values or {}), name, reason, f"expected {expected}, got {got}"))


def make_document(row: Row, source: Source) -> Document:
    """Return the document in the text field of a row."""
    values = row.values or {}
    field = source.text_field or _text_field(values)
    text = values.get(field) if field is not None else None
    if isinstance(text, bytes) and field is not None:
        text = _decode(text, field)
    if field is None or not isinstance(text, str):
        raise UnusableRow(_no_text(values, field, source))
    return Document(record_id(row, values), text, *provenance(row, values, source, {field}))


def _decode(data: bytes, field: str) -> str:
    """Return the text of a column of bytes in UTF-8."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        got = f"the byte 0x{data[error.start]:02x} at position {error.start:,}"
        hint = "convert the column to text in UTF-8, name another field with `text_field`, or set `on_bad_row: drop`"
        raise UnusableRow(RowProblem("not_utf8", f"text in UTF-8 in the field `{field}`", got, hint)) from None


def _text_field(values: Mapping[str, Any]) -> str | None:
    for name in TEXT_FIELDS:  # a generator would take longer than the rest of `make_document`
        if name in values:
            return name
    return None


def _no_text(values: Mapping[str, Any], field: str | None, source: Source) -> RowProblem:
    if field is not None and field in values:
        return RowProblem("no_text", f"text in the field `{field}`", json_type(values[field]))
    expected = f"the field `{field}`" if source.text_field else f"a text field ({', '.join(TEXT_FIELDS)})"
    return RowProblem(
        "no_text", expected, f"only the fields {', '.join(values) or '(none)'}", "name it with `text_field`"
    )


C = TypeVar("C")


class _Converter(Generic[C]):
    """A converter of rows by the format that the first row of each file determines."""

    def __init__(
        self,
        detect: Callable[[Mapping[str, Any]], RowFormat[C] | None],
        *,
        kind: str,
        known: str,
        check: Callable[[Mapping[str, Any], RowFormat[C], C], None] | None = None,
    ) -> None:
        """Create a converter; `check` raises `FormatMismatch` for a converted row that cannot be used."""
        self._detect, self._kind, self._known, self._check = detect, kind, known, check
        self._format: tuple[str, RowFormat[C]] | None = None

    def __call__(self, row: Row) -> tuple[C, TemplateVariables, frozenset[str]]:
        """Convert a row; return the result, the variables of its chat template and the fields that were read."""
        values = row.values or {}
        if self._format is None or self._format[0] != row.path:
            self._format = (row.path, self._detect_format(row))
        format = self._format[1]
        if not format.fits(values):
            expected = f"a row of the format {format.describe()}, like the first row of this file"
            raise UnusableRow(RowProblem("misfit", expected, f"the fields {', '.join(values) or '(none)'}"))
        try:
            converted = format.read(values)
            if self._check:
                self._check(values, format, converted)
            return converted, format.variables(values), format.reads | set(TEMPLATE_FIELDS)
        except FormatMismatch as error:
            expected = f"a row of the format {format.describe()}"
            raise UnusableRow(RowProblem(error.reason, expected, str(error), error.hint)) from None

    def _detect_format(self, row: Row) -> RowFormat[C]:
        format = self._detect(row.values or {})
        if format is None:
            got = f"the fields {', '.join(row.values or {}) or '(none)'}"
            raise DataError(
                row.where, expected=f"{self._kind} in one of the formats {self._known}", got=got, quoted=got
            )
        return format


class DialogueConverter:
    """A converter of rows to dialogues."""

    def __init__(self) -> None:
        known = "; ".join(dialogue_formats.FORMATS[name].describe() for name in dialogue_formats.FORMATS)
        self._convert: _Converter[Messages] = _Converter(
            dialogue_formats.detect, kind="a dialogue", known=known, check=dialogue_formats.check_single_dialogue
        )

    def __call__(self, row: Row, source: Source) -> Dialogue:
        messages, variables, reads = self._convert(row)
        values = row.values or {}
        _check_label(values, reads)
        try:
            messages, variables = parse_tool_text(messages, variables)
        except FormatMismatch as error:
            raise UnusableRow(RowProblem(error.reason, "calls in the Hermes format", str(error), error.hint)) from None
        return Dialogue(record_id(row, values), tuple(messages), *provenance(row, values, source, reads), variables)


class PreferenceConverter:
    """A converter of rows to preferences and rated answers."""

    def __init__(self, dropped: Dropped | None) -> None:
        known = "; ".join(preference_formats.FORMATS[name].describe() for name in preference_formats.FORMATS)
        self._convert: _Converter[list[Opinion]] = _Converter(
            preference_formats.detect, kind="a preference", known=known
        )
        self._dropped = dropped

    def __call__(self, row: Row, source: Source) -> list[Preference | UnpairedPreference]:
        row_opinions, variables, reads = self._convert(row)
        values = row.values or {}
        name, licence, metadata = provenance(row, values, source, reads)
        records = []
        for number, opinion in enumerate(row_opinions, 1):
            id = record_id(row, values) + (f"/{number}" if len(row_opinions) > 1 else "")
            match preference_formats.check_opinion(opinion):
                case Flaw(reason, detail):
                    if self._dropped:
                        self._dropped(DroppedRecord(id, name, reason, detail))
                case PreferenceRow(prompt, chosen, rejected, margin):
                    records.append(Preference(id, prompt, chosen, rejected, name, licence, margin, metadata, variables))
                case UnpairedPreferenceRow(prompt, answer, good):
                    records.append(UnpairedPreference(id, prompt, answer, good, name, licence, metadata, variables))
        return records


def _check_label(values: Mapping[str, Any], reads: Iterable[str]) -> None:
    """Refuse an answer that its row rates as bad: as a dialogue it would be imitated."""
    for name in ("label", "kto_tag"):
        if values.get(name) is False and name not in reads:
            got = f"`{name}` false: an answer that was rated bad"
            hint = "train on it with `dpo` and the loss `kto`, or set `on_bad_row: drop`"
            raise UnusableRow(RowProblem("rated_bad", "an answer to imitate", got, hint))


_EXPORTED_FIELDS = frozenset({"id", "text", "source", "licence", "metadata", "split"})
"""The fields of a document in a folder of `vita curate --out`."""
_PROVENANCE_FIELDS = {"id", "source", "license", "licence", "metadata"}


def record_id(row: Row, values: Mapping[str, Any]) -> str:
    """Return the `id` of a row as text (`row_ids`), or its file and number."""
    if (id := id_text(values.get("id"))) is not None:
        return id
    return f"{row.name}:{row.number}" if row.number else row.name


def provenance(
    row: Row, values: Mapping[str, Any], source: Source, reads: Iterable[str]
) -> tuple[str, str | None, dict[str, Any]]:
    """Return source name, licence and metadata of a row; all other fields of the row become metadata."""
    row_source, metadata = values.get("source"), _parsed(values.get("metadata"))
    extra = {name: value for name, value in values.items() if name not in _PROVENANCE_FIELDS and name not in reads}
    if isinstance(metadata, Mapping):
        extra.update(metadata)
    elif metadata is not None:
        extra["metadata"] = metadata
    if is_unusable_id(values.get("id")):
        extra.setdefault(STATED_ID, values["id"])
    if values.keys() == _EXPORTED_FIELDS and extra.get("split") in ("train", "held_out"):
        del extra["split"]  # the decision of the curation that wrote the row
    row_source = row_source if isinstance(row_source, str) and row_source else None
    if row_source and source.name and row_source != source.name:
        extra.setdefault("source", row_source)
    for name, default in (("opt_out", source.opt_out), ("consent", source.consent)):
        if default is not None and extra.get(name) in (None, ""):
            extra[name] = default
    return source.name or row_source or default_name(source), licence_of(values) or source.licence, extra


def licence_of(values: Mapping[str, Any]) -> str | None:
    """Return the licence that a row states; several are joined with commas."""
    licence = values.get("license") or values.get("licence")
    if isinstance(licence, (list, tuple)) and all(isinstance(name, str) for name in licence):
        return ", ".join(licence)
    return licence if isinstance(licence, str) else None


def _parsed(metadata: Any) -> Any:
    """Return metadata that a table holds as the text of a JSON object; other values stay as they are."""
    if not isinstance(metadata, str) or not metadata.startswith("{"):
        return metadata
    try:
        return json.loads(metadata)
    except ValueError:
        return metadata


def default_name(source: Source) -> str:
    """Return the default name of a source: that of its files, its data set, or the world."""
    return _last_name(without_user_and_query(source.path or source.huggingface or "world"))


@lru_cache
def _last_name(path: str) -> str:
    """Return one name for a path pattern: `books` for `../books/**/*.txt` and for `books.jsonl.zst`."""
    parts = [part for part in PurePosixPath(path).parts if not glob.has_magic(part) and part.strip("./")]
    name = printable(parts[-1]) if parts else "text"
    suffix = SourceFile(name, name, 0).suffix
    return name.split(".")[0] or name if suffix in SUFFIX_FORMATS or suffix in READERS else name
