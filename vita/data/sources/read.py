"""Reading of sources: files of several types, data sets of the Hugging Face hub, and the built-in world.

    for document in documents(Source(path="books/**/*.txt.gz", licence="public domain")): ...
    for dialogue in dialogues(Source(path="chats.jsonl")): ...
    for preference in preferences(Source(path="pairs.jsonl")): ...

Rows are read one by one, so memory does not grow with the file. A row that cannot be used is an error with its file,
row and problem, unless `on_bad_row: drop` is set; then it is passed to `dropped` with the reason.
A new file type is one function in `readers`; a new origin is one function here and a field of `Source`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import PurePosixPath
from typing import Any, TypeVar

from vita.data.record_rights import permitted_records
from vita.data.records import Dialogue, Document, LabelledText, Preference, TextPair, UnpairedPreference
from vita.data.sources import archives, columnar_readers, document_readers, files, table_readers, web_readers
from vita.data.sources.columns import LabelColumns, LabelConverter, PairColumns, PairConverter
from vita.data.sources.content_types import SUFFIX_FORMATS
from vita.data.sources.curated_folders import training_files
from vita.data.sources.erased import Record, without_erased
from vita.data.sources.erased_rewrites import without_erased_rewrites
from vita.data.sources.files import DamagedFile, SourceFile
from vita.data.sources.readers import DAMAGED_FILE, Row, RowProblem, empty_file, format_of, is_readable, read_rows
from vita.data.sources.records_from_rows import (
    DialogueConverter,
    Dropped,
    PreferenceConverter,
    convert_rows,
    make_document,
)
from vita.data.sources.source import ORIGINS, Source
from vita.data.sources.spans import divide
from vita.data.sources.streams import with_head
from vita.data.world import World
from vita.spine.config import unknown_name
from vita.spine.contents import current_erasures
from vita.spine.erasures import Erasure
from vita.spine.errors import DataError, MissingExtra
from vita.spine.file_listing import hidden_names, printable
from vita.spine.plain_text import counted
from vita.spine.url_secrets import mask_url_secrets, without_user_and_query

_READERS_OF_FORMATS = (archives, columnar_readers, document_readers, table_readers, web_readers)
"""Modules that register readers when they are imported."""


@dataclass(frozen=True)
class SourceSlice:
    """A slice of a source that one process reads in order: some of its files, or all of an origin without files."""

    source: Source
    files: tuple[SourceFile, ...] = ()
    erasures: tuple[Erasure, ...] = field(default_factory=current_erasures)
    """Erasures of the run that created the slice; their documents are dropped."""

    @property
    def size(self) -> int:
        """Return the bytes on disk; 0 if unknown."""
        return sum(file.span.size if file.span else file.size for file in self.files)

    @property
    def is_span(self) -> bool:
        """Return True if the slice is a part of a large file."""
        return any(file.span for file in self.files)


def documents(
    source: Source | SourceSlice, *, dropped: Dropped | None = None, converted: Callable[[Row], None] | None = None
) -> Iterator[Document]:
    """Yield the documents of a source in order; unusable rows go to `dropped` if the source drops them.

    `converted` is called before each document with the row that it was made of.
    """
    stretch = source if isinstance(source, SourceSlice) else _whole_source(source)
    records = convert_rows(_read_origin(stretch, Document), stretch.source, make_document, dropped, converted=converted)
    permitted = without_erased_rewrites(_usable(records, stretch, dropped), stretch.erasures, dropped)
    return islice(permitted, stretch.source.limit)


def dialogues(source: Source | SourceSlice, *, dropped: Dropped | None = None) -> Iterator[Dialogue]:
    """Yield the dialogues of a source; the first row of each file determines its format (see `dialogue_formats`)."""
    stretch = source if isinstance(source, SourceSlice) else _whole_source(source, Dialogue)
    records = convert_rows(_read_origin(stretch, Dialogue), stretch.source, DialogueConverter(), dropped)
    return islice(_usable(records, stretch, dropped), stretch.source.limit)


def preferences(source: Source, *, dropped: Dropped | None = None) -> Iterator[Preference]:
    """Yield the preference pairs of a source; the first row of each file determines its format.

    A row without a preference (a tie, two equal answers) is never an error: it goes to `dropped`.
    """
    records = _read_opinions(source, Preference, dropped)
    return islice((record for record in records if isinstance(record, Preference)), source.limit)


def ratings(source: Source, *, dropped: Dropped | None = None) -> Iterator[UnpairedPreference]:
    """Yield the rated answers of a source; a pair becomes one good and one bad answer."""
    records = _read_opinions(source, UnpairedPreference, dropped)
    return islice((rated for record in records for rated in _ratings_of(record)), source.limit)


def preferences_and_ratings(
    source: Source, *, dropped: Dropped | None = None
) -> Iterator[Preference | UnpairedPreference]:
    """Yield the preference pairs and rated answers of a source as the rows have them."""
    return islice(_read_opinions(source, UnpairedPreference, dropped), source.limit)


def labelled_texts(
    source: Source, columns: LabelColumns | None = None, *, dropped: Dropped | None = None
) -> Iterator[LabelledText]:
    """Yield the labelled texts of a source; the first row of each file determines columns that are not set."""
    stretch = _whole_source(source, LabelledText)
    rows = _read_origin(stretch, LabelledText)
    records = convert_rows(rows, source, LabelConverter(columns or LabelColumns()), dropped)
    return islice(_usable(records, stretch, dropped), source.limit)


def text_pairs(
    source: Source, columns: PairColumns | None = None, *, dropped: Dropped | None = None
) -> Iterator[TextPair]:
    """Yield the text pairs of a source; the first row of each file determines columns that are not set."""
    stretch = _whole_source(source, TextPair)
    records = convert_rows(_read_origin(stretch, TextPair), source, PairConverter(columns or PairColumns()), dropped)
    return islice(_usable(records, stretch, dropped), source.limit)


R = TypeVar("R", bound=Record)


def _usable(records: Iterable[R], stretch: SourceSlice, dropped: Dropped | None) -> Iterator[R]:
    """Yield the records that no erasure covers and that the source's `rights` permit."""
    return permitted_records(without_erased(records, stretch.erasures, dropped), stretch.source.rights, dropped)


def split_source(source: Source, *, bytes_each: int) -> list[SourceSlice]:
    """Split a source into slices of files with at least `bytes_each` on disk, and of single spans of large files.

    The slices are equal on every machine.
    """
    if source.path is None or source.limit is not None:
        return [_whole_source(source)]
    slices: list[SourceSlice] = []
    group: list[SourceFile] = []
    size = 0
    for file in readable_files(source):
        spans = divide(file, source)
        if len(spans) > 1:
            slices += [SourceSlice(source, tuple(group))] if group else []
            slices += [SourceSlice(source, (span,)) for span in spans]
            group, size = [], 0
            continue
        group.append(file)
        size += file.size
        if size >= bytes_each:
            slices.append(SourceSlice(source, tuple(group)))
            group, size = [], 0
    return [*slices, SourceSlice(source, tuple(group))] if group else slices


def readable_files(source: Source, record_type: type[Any] = Document) -> list[SourceFile]:
    """Return the files of a source that have a reader; other files of a folder are skipped (see `skipped_files`).

    An error is raised if no file has a reader. In the folder of a preferences artifact, the result is the file of
    the record type.
    """
    candidates = training_files(_list_files(source))
    if record_type in _ARTIFACT_FILES and any(file.name == "preferences.jsonl" for file in candidates):
        names = _ARTIFACT_FILES[record_type]
        by_name = {file.name: file for file in candidates if file.name in names and (file.size or len(names) == 1)}
        if not by_name:
            raise DataError(source.label(), f"holds preferences, and no {names[0]}")
        candidates = [min(by_name.values(), key=lambda file: names.index(file.name))]
    readable = [file for file in candidates if is_readable(file, source)]
    if readable:
        files.record_selected(source.path or "", readable)
        return readable
    got = sorted({PurePosixPath(file.path).name if len(candidates) == 1 else f".{file.suffix}" for file in candidates})
    known = ", ".join(f".{name}" for name in SUFFIX_FORMATS)
    hint = "set `format` to read them in spite of their content"
    raise DataError(source.label(), expected=f"files of these formats: {known}", got=", ".join(got[:5]), hint=hint)


def is_single_text(source: Source) -> bool:
    """Return True if a source is one file of plain text that is not cut at lines or blank lines."""
    if source.path is None or source.cut_at is not None:
        return False
    files_of_source = readable_files(source)
    if len(files_of_source) != 1:
        return False
    file, head = with_head(files_of_source[0])
    return format_of(file, head, source) == "text"


def listing_note(source: Source) -> str | None:
    """Return how an HTTP address that ends with a slash is read: its page, or the files that its page lists."""
    path = source.path or ""
    if not path.startswith(("http://", "https://")) or not without_user_and_query(path).endswith("/"):
        return None
    listed = _list_files(source)
    page = f"the page {mask_url_secrets(path)} lists"
    if [file.path for file in listed] == [path]:
        return f"{page} no files: it is read as a document"
    return f"{page} {counted(len(listed), 'file')}, which {'is' if len(listed) == 1 else 'are'} read"


def skipped_files(source: Source) -> list[str]:
    """Return the names of the files that are not read: without a reader, hidden, or beside the documents of a corpus.

    A hidden folder is one name. Only local folders are searched for hidden files.
    """
    if source.path is None:
        return []
    candidates = _list_files(source)
    readable = {file.name for file in training_files(candidates) if is_readable(file, source)}
    hidden = [] if "://" in source.path else hidden_names(source.path)
    return [file.name for file in candidates if file.name not in readable] + hidden


_ARTIFACT_FILES: Mapping[type[Any], tuple[str, ...]] = {
    Dialogue: ("dialogues.jsonl",),
    Preference: ("preferences.jsonl",),
    UnpairedPreference: ("rated.jsonl", "preferences.jsonl"),
}
"""The files of each record type in a preferences artifact; the first file that is not empty is read."""


def _list_files(source: Source) -> list[SourceFile]:
    return files.find_files(source.path or "", exclude=source.exclude, where=source.label())


def first_row(source: Source, record_type: type[Any] = Dialogue) -> Row | None:
    """Return the first row of a source, whose fields determine the format; None for a source without rows."""
    if source.world is not None:
        return None
    return next(iter(_read_origin(_whole_source(source, record_type), record_type)), None)


# -- preferences


def _read_opinions(
    source: Source, record_type: type[Any], dropped: Dropped | None
) -> Iterator[Preference | UnpairedPreference]:
    make = PreferenceConverter(dropped)
    stretch = _whole_source(source, record_type)
    for converted in convert_rows(_read_origin(stretch, Preference), source, make, dropped):
        records = converted if isinstance(converted, list) else [converted]
        for record in _usable(records, stretch, dropped):
            if record_type is Preference and isinstance(record, UnpairedPreference):
                hint = "train on them with the loss `kto`, which needs no pairs"
                raise DataError(source.label(), expected="pairs of answers", got="answers with a label", hint=hint)
            yield record


def _ratings_of(record: Preference | UnpairedPreference) -> Iterator[UnpairedPreference]:
    if isinstance(record, UnpairedPreference):
        yield record
        return
    for name, answer in (("chosen", record.chosen), ("rejected", record.rejected)):
        good = name == "chosen"
        yield UnpairedPreference(
            f"{record.id}/{name}", record.prompt, answer, good, record.source, record.licence, record.metadata
        )


# -- origins: a slice -> its rows, or records of the requested type

Wanted = type[Document] | type[Dialogue] | type[Preference] | type[LabelledText] | type[TextPair]
Origin = Callable[[SourceSlice, Wanted], Iterator[Any]]
_ORIGINS: dict[str, Origin] = {}


def origin(name: str) -> Callable[[Origin], Origin]:
    """Return a decorator that registers an origin under the name of its field of `Source`."""

    def enter(read: Origin) -> Origin:
        _ORIGINS[name] = read
        return read

    return enter


def _read_origin(stretch: SourceSlice, record_type: Wanted) -> Iterator[Any]:
    chosen = next(name for name in ORIGINS if getattr(stretch.source, name) is not None)
    return _ORIGINS[chosen](stretch, record_type)


def _whole_source(source: Source, record_type: type[Any] = Document) -> SourceSlice:
    return SourceSlice(source, tuple(readable_files(source, record_type)) if source.path is not None else ())


@origin("path")
def read_files(stretch: SourceSlice, record_type: Wanted) -> Iterator[Row]:
    """Yield the rows of each file, by the reader for its content.

    A damaged file is an error, or, if bad rows are dropped, one bad row after the rows that could be read. A file
    without rows is a skipped row, if documents are read.
    """
    for file in stretch.files:
        number = file.span.first_row - 1 if file.span else 0
        is_empty = file.span is None and record_type is Document
        try:
            for row in read_rows(file, stretch.source):
                number, is_empty = row.number, False
                yield row
            if is_empty:
                yield empty_file(file)
        except DamagedFile as error:
            files.verify(file)  # a file that changed during the run is a different error
            if stretch.source.on_bad_row == "error":
                raise
            got = f"a problem after {counted(number, 'row')}: {error.summary}"
            problem = RowProblem(DAMAGED_FILE, "a file that can be read to its end", got)
            yield Row(printable(file.path), file.name, number + 1, None, problem)


@origin("world")
def read_world(stretch: SourceSlice, record_type: Wanted) -> Iterator[Any]:
    """Yield the records of a part of the built-in world."""
    source = stretch.source
    parts = _PARTS[record_type]
    name = source.part or next(iter(parts))
    if name not in parts:
        raise unknown_name(f"{source.label()}: part", name, parts)
    for record in parts[name](World.create(source.world), source.limit or WORLD_COUNT):
        yield replace(record, source=source.name or record.source, licence=record.licence or source.licence)


WORLD_COUNT = 1000
"""Number of records of the smaller parts of the world, if the source sets no `limit`."""

_PARTS: Mapping[Wanted, Mapping[str, Callable[[World, int], Iterator[Any]]]] = {
    Document: {
        "documents": lambda world, count: world.documents(),
        "vet": lambda world, count: world.domain_documents("vet", count=count),
        "court": lambda world, count: world.domain_documents("court", count=count),
    },
    Dialogue: {
        "dialogues": lambda world, count: world.dialogues(),
        "sums": lambda world, count: world.sums(count=count),
        "refusals": lambda world, count: world.refusals(count=count),
    },
    Preference: {"preferences": lambda world, count: world.preferences(count=count)},
    LabelledText: {"kinds": lambda world, count: world.labelled_texts()},
    TextPair: {"questions": lambda world, count: world.text_pairs()},
}


@origin("huggingface")
def read_huggingface(stretch: SourceSlice, record_type: Wanted) -> Iterator[Row]:
    """Stream the rows of a data set of the hub."""
    name = stretch.source.huggingface or ""
    try:
        from datasets import load_dataset
    except ImportError:
        raise MissingExtra(stretch.source.label(), "datasets") from None
    try:
        rows = load_dataset(name, stretch.source.subset, split=stretch.source.split, streaming=True)
        for number, values in enumerate(rows, 1):
            yield Row(name, name.rpartition("/")[2], number, values)
    except (OSError, ValueError) as error:
        first_line = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"huggingface {name}", f"cannot be read: {first_line}") from None
