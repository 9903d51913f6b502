"""Where text comes from: files of several kinds, a data set of the Hugging Face hub, or the embedded world.

    for document in documents(Source(path="books/**/*.txt.gz", licence="public domain")): ...
    for dialogue in dialogues(Source(path="chats.jsonl")): ...
    for preference in preferences(Source(path="pairs.jsonl")): ...

Rows are read one by one, so memory does not grow with the file. A row that cannot be used stops the run with its
place and what is wrong, unless `on_bad_row: drop` is set; then it is handed to `dropped` with the reason.
A new kind of file is one function in `readers`; a new origin is one function here and a field of `Source`.
"""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice
from pathlib import PurePosixPath
from typing import Any, Generic, Literal, TypeVar

from pydantic import Field, model_validator

from vita.data import files, formats
from vita.data import preferences as opinions
from vita.data.files import File
from vita.data.formats import Format
from vita.data.preferences import Flaw, Opinion, Pair, Verdict
from vita.data.readers import READERS, Problem, Row, kind_of
from vita.data.records import Dialogue, Document, Drop, Preference, Rated
from vita.data.turns import Messages, Misfit
from vita.data.world import World, WorldSettings
from vita.spine.config import InputPath, Settings, neutral, unknown_name
from vita.spine.errors import DataError, MissingExtra

Dropped = Callable[[Drop], None]

TEXT_FIELDS = ("text", "content", "raw_content", "body", "document", "article")
"""Where a row's text is looked for, in this order, when the source does not say."""


class Source(Settings):
    """One place that text comes from: exactly one of `path`, `world` and `huggingface`."""

    name: str | None = None
    """What documents say they come from; without it, the row's own `source`, else the file's or folder's name."""
    path: InputPath | None = None
    """A file, a folder (all usable files below it), a glob, or a URL such as `s3://bucket/folder`."""
    exclude: tuple[str, ...] = ()
    """Globs of files to leave out, matched with the name of the file and its path below the folder."""
    world: WorldSettings | None = None
    """The embedded world, which needs no files."""
    part: str | None = neutral(None)
    """Which of the world's texts: documents, vet or court where documents are wanted; dialogues, sums or refusals where
    dialogues are; preferences. Without it the first."""
    huggingface: str | None = None
    """A data set of the Hugging Face hub, or a folder in its form (extra `datasets`)."""
    subset: str | None = None
    """The hub data set's configuration, where it has several."""
    split: str = "train"
    """The hub data set's split."""
    text_field: str | None = None
    """The field that holds the text; without it the first of text, content, raw_content, body, document, article."""
    cut_at: Literal["blank_lines", "lines"] | None = None
    """Make many documents of a text file, cut at blank lines or at every line; without it a file is one document."""
    licence: str | None = None
    """The licence of documents that do not carry one themselves (in `license` or `licence`)."""
    on_bad_row: Literal["error", "drop"] = "error"
    """What a row that cannot be used does: stop the run, or be dropped and counted."""
    repeat: float = Field(default=1.0, gt=0)
    """How often the source is passed over in training; 2.5 takes half of its documents, drawn by content, thrice."""
    limit: int | None = Field(default=None, ge=1)
    """Take only the first documents."""

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        return {"path": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one_origin(self) -> Source:
        given = [name for name in ORIGINS if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of {', '.join(ORIGINS)}, not {' and '.join(given) or 'none'}")
        if self.part is not None and self.world is None:
            raise ValueError("`part` names a part of the embedded world, and this source is not the world")
        return self

    def label(self) -> str:
        """What to call it in messages and reports."""
        return self.name or self.path or self.huggingface or "world"


@dataclass(frozen=True)
class Stretch:
    """A part of a source that one process reads in order: some of its files, or all of an origin without files."""

    source: Source
    files: tuple[File, ...] = ()

    @property
    def size(self) -> int:
        """Bytes on disk; 0 where that is not known."""
        return sum(file.size for file in self.files)


def documents(source: Source | Stretch, *, dropped: Dropped | None = None) -> Iterator[Document]:
    """The documents of a source in their order; unusable rows go to `dropped` when the source drops them."""
    stretch = source if isinstance(source, Stretch) else _all_of(source)
    kept = _usable(_origin(stretch, Document), stretch.source, _document, dropped)
    return islice(kept, stretch.source.limit)


def dialogues(source: Source | Stretch, *, dropped: Dropped | None = None) -> Iterator[Dialogue]:
    """The dialogues of a source; each file's format is told from its first row (see `formats`)."""
    stretch = source if isinstance(source, Stretch) else _all_of(source, Dialogue)
    kept = _usable(_origin(stretch, Dialogue), stretch.source, _DialogueMaker(), dropped)
    return islice(kept, stretch.source.limit)


def preferences(source: Source, *, dropped: Dropped | None = None) -> Iterator[Preference]:
    """The pairs of a better and a worse answer of a source; each file's format is told from its first row.

    A row that tells no preference (a tie, two answers that are the same) is never an error: it goes to `dropped`.
    """
    rows = _opinions(source, Preference, dropped)
    return islice((one for one in rows if isinstance(one, Preference)), source.limit)


def ratings(source: Source, *, dropped: Dropped | None = None) -> Iterator[Rated]:
    """The answers of a source that were found good or bad; a pair gives one of each."""
    rows = _opinions(source, Rated, dropped)
    return islice((rated for one in rows for rated in _rated(one)), source.limit)


def stretches(source: Source, *, bytes_each: int) -> list[Stretch]:
    """The source cut into parts of at least `bytes_each` on disk, at file boundaries; the same on every machine."""
    if source.path is None or source.limit is not None:
        return [_all_of(source)]
    parts: list[Stretch] = []
    group: list[File] = []
    for file in usable_files(source):
        group.append(file)
        if sum(file.size for file in group) >= bytes_each:
            parts.append(Stretch(source, tuple(group)))
            group = []
    return [*parts, Stretch(source, tuple(group))] if group else parts


def usable_files(source: Source, wanted: type[Any] = Document) -> list[File]:
    """The files of a path that a reader knows. In a folder others are passed over; alone or all, they are refused.

    In the folder of a preferences artifact it is the file of what is wanted.
    """
    found = _found(source)
    if (name := _ARTIFACT_FILES.get(wanted)) and any(file.name == "preferences.jsonl" for file in found):
        found = [file for file in found if file.name == name]
        if not found:
            raise DataError(source.label(), f"holds preferences, and no {name}")
    usable = [file for file in found if file.suffix in READERS]
    if usable:
        return usable
    got = sorted({PurePosixPath(file.path).name if len(found) == 1 else f".{file.suffix}" for file in found})
    known = ", ".join(f".{name}" for name in READERS)
    raise DataError(source.label(), expected=f"files ending in {known} (also .gz, .zst)", got=", ".join(got[:5]))


def passed_over(source: Source) -> list[str]:
    """The names of files that no reader knows."""
    return [file.name for file in _found(source) if file.suffix not in READERS] if source.path is not None else []


_ARTIFACT_FILES = {Dialogue: "dialogues.jsonl", Preference: "preferences.jsonl", Rated: "preferences.jsonl"}


def _found(source: Source) -> list[File]:
    return files.find(source.path or "", exclude=source.exclude, where=source.label())


# -- records of rows


class _Unusable(Exception):
    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.problem = problem


T = TypeVar("T")


def _usable(
    rows: Iterable[Row | T], source: Source, make: Callable[[Row, Source], T], dropped: Dropped | None
) -> Iterator[T]:
    for row in rows:
        if not isinstance(row, Row):
            yield row  # an origin that makes records itself
            continue
        try:
            if row.problem:
                raise _Unusable(row.problem)
            record = make(row, source)
        except _Unusable as error:
            _refuse_or_drop(row, error.problem, source, dropped)
            continue
        yield record


def _refuse_or_drop(row: Row, problem: Problem, source: Source, dropped: Dropped | None) -> None:
    reason, expected, got, hint = problem
    if source.on_bad_row == "error":
        raise DataError(row.where, expected=expected, got=got, hint=hint or "mend the row, or set `on_bad_row: drop`")
    if dropped:
        name = source.name or _name_of(source)
        dropped(Drop(_id(row, row.values or {}), name, reason, f"expected {expected}, got {got}"))


def _document(row: Row, source: Source) -> Document:
    values = row.values or {}
    field = source.text_field or next((name for name in TEXT_FIELDS if name in values), None)
    if field is None or not isinstance(text := values.get(field), str):
        raise _Unusable(_no_text(values, field, source))
    return Document(_id(row, values), text, *_provenance(row, values, source, {field}))


def _no_text(values: Mapping[str, Any], field: str | None, source: Source) -> Problem:
    if field is not None and field in values:
        return Problem("no_text", f"text in the field `{field}`", kind_of(values[field]))
    wanted = f"the field `{field}`" if source.text_field else f"a text field ({', '.join(TEXT_FIELDS)})"
    return Problem("no_text", wanted, f"only the fields {', '.join(values) or '(none)'}", "name it with `text_field`")


C = TypeVar("C")


class _Converter(Generic[C]):
    """Converts rows by their format, which each file's first row decides."""

    def __init__(self, detect: Callable[[Mapping[str, Any]], Format[C] | None], *, wanted: str, known: str) -> None:
        self._detect, self._wanted, self._known = detect, wanted, known
        self._format: tuple[str, Format[C]] | None = None

    def __call__(self, row: Row) -> tuple[C, frozenset[str]]:
        """What the row says, and the fields that were read for it."""
        values = row.values or {}
        if self._format is None or self._format[0] != row.place:
            self._format = (row.place, self._of(row))
        format = self._format[1]
        if not format.fits(values):
            wanted = f"a row of the format {format.describe()}, as the first row of this file is"
            raise _Unusable(Problem("misfit", wanted, f"the fields {', '.join(values) or '(none)'}"))
        try:
            return format.convert(values), format.reads
        except Misfit as error:
            raise _Unusable(Problem("misfit", f"a row of the format {format.describe()}", str(error))) from None

    def _of(self, row: Row) -> Format[C]:
        found = self._detect(row.values or {})
        if found is None:
            got = f"the fields {', '.join(row.values or {}) or '(none)'}"
            raise DataError(row.where, expected=f"{self._wanted} in one of the formats {self._known}", got=got)
        return found


class _DialogueMaker:
    """Makes dialogues of rows."""

    def __init__(self) -> None:
        known = "; ".join(formats.FORMATS[name].describe() for name in formats.FORMATS)
        self._convert: _Converter[Messages] = _Converter(formats.detect, wanted="a dialogue", known=known)

    def __call__(self, row: Row, source: Source) -> Dialogue:
        messages, reads = self._convert(row)
        values = row.values or {}
        return Dialogue(_id(row, values), tuple(messages), *_provenance(row, values, source, reads))


class _OpinionMaker:
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
            id = _id(row, values) + (f"/{number}" if len(found) > 1 else "")
            match opinions.examined(opinion):
                case Flaw(reason, detail):
                    if self._dropped:
                        self._dropped(Drop(id, name, reason, detail))
                case Pair(prompt, chosen, rejected, margin):
                    records.append(Preference(id, prompt, chosen, rejected, name, licence, margin, metadata))
                case Verdict(prompt, answer, good):
                    records.append(Rated(id, prompt, answer, good, name, licence, metadata))
        return records


def _opinions(source: Source, wanted: type[Any], dropped: Dropped | None) -> Iterator[Preference | Rated]:
    make = _OpinionMaker(dropped)
    stretch = _all_of(source, wanted)
    for found in _usable(_origin(stretch, Preference), source, make, dropped):
        records = found if isinstance(found, list) else [found]
        for record in records:
            if wanted is Preference and isinstance(record, Rated):
                hint = "learn from them with the loss `kto`, which wants no pairs"
                raise DataError(source.label(), expected="pairs of answers", got="answers with a label", hint=hint)
            yield record


def _rated(one: Preference | Rated) -> Iterator[Rated]:
    if isinstance(one, Rated):
        yield one
        return
    for name, answer in (("chosen", one.chosen), ("rejected", one.rejected)):
        good = name == "chosen"
        yield Rated(f"{one.id}/{name}", one.prompt, answer, good, one.source, one.licence, one.metadata)


_PROVENANCE_FIELDS = {"id", "source", "license", "licence", "metadata"}


def _id(row: Row, values: Mapping[str, Any]) -> str:
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
        source.name or own or _name_of(source),
        licence if isinstance(licence, str) else source.licence,
        rest,
    )


def _name_of(source: Source) -> str:
    return _last_name(source.path or source.huggingface or "world")


@lru_cache
def _last_name(path: str) -> str:
    """`books` of `../books/**/*.txt` and of `books.jsonl.zst`: one name, however many files there are."""
    parts = [part for part in PurePosixPath(path).parts if not glob.has_magic(part) and part.strip("./")]
    name = parts[-1] if parts else "text"
    return name.split(".")[0] or name if File(name, name, 0).suffix in READERS else name


# -- origins: a stretch -> its rows, or finished records of the wanted kind

Wanted = type[Document] | type[Dialogue] | type[Preference]
Origin = Callable[[Stretch, Wanted], Iterator[Any]]
ORIGINS: dict[str, Origin] = {}


def origin(name: str) -> Callable[[Origin], Origin]:
    """Enter an origin under the name of the field of `Source` that chooses it."""

    def enter(read: Origin) -> Origin:
        ORIGINS[name] = read
        return read

    return enter


def _origin(stretch: Stretch, wanted: Wanted) -> Iterator[Any]:
    chosen = next(name for name in ORIGINS if getattr(stretch.source, name) is not None)
    return ORIGINS[chosen](stretch, wanted)


def _all_of(source: Source, wanted: type[Any] = Document) -> Stretch:
    return Stretch(source, tuple(usable_files(source, wanted)) if source.path is not None else ())


@origin("path")
def read_files(stretch: Stretch, wanted: Wanted) -> Iterator[Row]:
    """The rows of each file, by the reader for its suffix."""
    for file in stretch.files:
        yield from READERS[file.suffix](file, stretch.source)


@origin("world")
def read_world(stretch: Stretch, wanted: Wanted) -> Iterator[Document | Dialogue | Preference]:
    """A part of the embedded world."""
    source = stretch.source
    parts = _PARTS[wanted]
    name = source.part or next(iter(parts))
    if name not in parts:
        raise unknown_name(f"{source.label()}: part", name, parts)
    for record in parts[name](World.create(source.world), source.limit or WORLD_COUNT):
        yield replace(record, source=source.name or record.source, licence=record.licence or source.licence)


WORLD_COUNT = 1000
"""Records of the world's smaller parts, where the source sets no `limit`."""

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
}


@origin("huggingface")
def read_huggingface(stretch: Stretch, wanted: Wanted) -> Iterator[Row]:
    """The rows of a data set of the hub, streamed."""
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
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"huggingface {name}", f"cannot be read: {first}") from None
