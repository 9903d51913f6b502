"""Where text comes from: files of several kinds, a data set of the Hugging Face hub, or the embedded world.

    for document in documents(Source(path="books/**/*.txt.gz", licence="public domain")): ...
    for dialogue in dialogues(Source(path="chats.jsonl")): ...
    for preference in preferences(Source(path="pairs.jsonl")): ...

Rows are read one by one, so memory does not grow with the file. A row that cannot be used stops the run with its
place and what is wrong, unless `on_bad_row: drop` is set; then it is handed to `dropped` with the reason.
A new kind of file is one function in `readers`; a new origin is one function here and a field of `Source`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import PurePosixPath
from typing import Any

from vita.data.records import Dialogue, Document, Preference, Rated
from vita.data.sources import files
from vita.data.sources.erased import without_erased
from vita.data.sources.files import DamagedFile, File
from vita.data.sources.readers import DAMAGED_FILE, READERS, Problem, Row
from vita.data.sources.records_from_rows import DialogueMaker, Dropped, OpinionMaker, document_of, usable
from vita.data.sources.source import ORIGINS, Source
from vita.data.world import World
from vita.spine.config import unknown_name
from vita.spine.contents import current_erasures
from vita.spine.erasures import Erasure
from vita.spine.errors import DataError, MissingExtra
from vita.spine.file_listing import printable
from vita.spine.plain_text import counted


@dataclass(frozen=True)
class Stretch:
    """A part of a source that one process reads in order: some of its files, or all of an origin without files."""

    source: Source
    files: tuple[File, ...] = ()
    erasures: tuple[Erasure, ...] = field(default_factory=current_erasures)
    """Documents that are left out; those of the run in which the part is made."""

    @property
    def size(self) -> int:
        """Bytes on disk; 0 where that is not known."""
        return sum(file.size for file in self.files)


def documents(
    source: Source | Stretch, *, dropped: Dropped | None = None, repaired: Callable[[], None] | None = None
) -> Iterator[Document]:
    """Yield the documents of a source in their order; unusable rows go to `dropped` when the source drops them.

    `repaired` is called before each document whose row held half surrogate pairs, now U+FFFD.
    """
    stretch = source if isinstance(source, Stretch) else _all_of(source)
    every = usable(_origin(stretch, Document), stretch.source, document_of, dropped, repaired=repaired)
    kept = without_erased(every, stretch.erasures, dropped)
    return islice(kept, stretch.source.limit)


def dialogues(source: Source | Stretch, *, dropped: Dropped | None = None) -> Iterator[Dialogue]:
    """The dialogues of a source; each file's format is told from its first row (see `formats`)."""
    stretch = source if isinstance(source, Stretch) else _all_of(source, Dialogue)
    every = usable(_origin(stretch, Dialogue), stretch.source, DialogueMaker(), dropped)
    kept = without_erased(every, stretch.erasures, dropped)
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


def opinions(source: Source, *, dropped: Dropped | None = None) -> Iterator[Preference | Rated]:
    """Both kinds of them, as the rows have it."""
    return islice(_opinions(source, Rated, dropped), source.limit)


def stretches(source: Source, *, bytes_each: int) -> list[Stretch]:
    """The source cut into parts of at least `bytes_each` on disk, at file boundaries; the same on every machine."""
    if source.path is None or source.limit is not None:
        return [_all_of(source)]
    parts: list[Stretch] = []
    group: list[File] = []
    size = 0
    for file in usable_files(source):
        group.append(file)
        size += file.size
        if size >= bytes_each:
            parts.append(Stretch(source, tuple(group)))
            group, size = [], 0
    return [*parts, Stretch(source, tuple(group))] if group else parts


def usable_files(source: Source, wanted: type[Any] = Document) -> list[File]:
    """The files of a path that a reader knows. In a folder others are passed over; alone or all, they are refused.

    In the folder of a preferences artifact it is the file of what is wanted.
    """
    found = _found(source)
    if wanted in _ARTIFACT_FILES and any(file.name == "preferences.jsonl" for file in found):
        names = _ARTIFACT_FILES[wanted]
        by_name = {file.name: file for file in found if file.name in names and (file.size or len(names) == 1)}
        if not by_name:
            raise DataError(source.label(), f"holds preferences, and no {names[0]}")
        found = [min(by_name.values(), key=lambda file: names.index(file.name))]
    usable = [file for file in found if file.suffix in READERS]
    if usable:
        files.choose(source.path or "", usable)
        return usable
    got = sorted({PurePosixPath(file.path).name if len(found) == 1 else f".{file.suffix}" for file in found})
    known = ", ".join(f".{name}" for name in READERS)
    raise DataError(source.label(), expected=f"files ending in {known} (also .gz, .zst)", got=", ".join(got[:5]))


def passed_over(source: Source) -> list[str]:
    """The names of files that no reader knows."""
    return [file.name for file in _found(source) if file.suffix not in READERS] if source.path is not None else []


_ARTIFACT_FILES: Mapping[type[Any], tuple[str, ...]] = {
    Dialogue: ("dialogues.jsonl",),
    Preference: ("preferences.jsonl",),
    Rated: ("rated.jsonl", "preferences.jsonl"),
}
"""In a preferences artifact: the files of each kind of record; the first that holds something is read."""


def _found(source: Source) -> list[File]:
    return files.find(source.path or "", exclude=source.exclude, where=source.label())


def first_row(source: Source, wanted: type[Any] = Dialogue) -> Row | None:
    """The first row of a source that has rows; its fields tell the format."""
    if source.world is not None:
        return None
    return next(iter(_origin(_all_of(source, wanted), wanted)), None)


# -- preferences


def _opinions(source: Source, wanted: type[Any], dropped: Dropped | None) -> Iterator[Preference | Rated]:
    make = OpinionMaker(dropped)
    stretch = _all_of(source, wanted)
    for found in usable(_origin(stretch, Preference), source, make, dropped):
        records = found if isinstance(found, list) else [found]
        for record in without_erased(records, stretch.erasures, dropped):
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


# -- origins: a stretch -> its rows, or finished records of the wanted kind

Wanted = type[Document] | type[Dialogue] | type[Preference]
Origin = Callable[[Stretch, Wanted], Iterator[Any]]
_ORIGINS: dict[str, Origin] = {}


def origin(name: str) -> Callable[[Origin], Origin]:
    """Enter an origin under the name of the field of `Source` that chooses it."""

    def enter(read: Origin) -> Origin:
        _ORIGINS[name] = read
        return read

    return enter


def _origin(stretch: Stretch, wanted: Wanted) -> Iterator[Any]:
    chosen = next(name for name in ORIGINS if getattr(stretch.source, name) is not None)
    return _ORIGINS[chosen](stretch, wanted)


def _all_of(source: Source, wanted: type[Any] = Document) -> Stretch:
    return Stretch(source, tuple(usable_files(source, wanted)) if source.path is not None else ())


@origin("path")
def read_files(stretch: Stretch, wanted: Wanted) -> Iterator[Row]:
    """Yield the rows of each file, by the reader for its suffix.

    A damaged file ends the run, or where bad rows are dropped becomes a bad row after those that could be read.
    """
    for file in stretch.files:
        number = 0
        try:
            for row in READERS[file.suffix](file, stretch.source):
                number = row.number
                yield row
        except DamagedFile as error:
            files.verify(file)  # a file that changes is no damaged file
            if stretch.source.on_bad_row == "error":
                raise
            got = f"a problem after {counted(number, 'row')}: {error.summary}"
            problem = Problem(DAMAGED_FILE, "a file that can be read to its end", got)
            yield Row(printable(file.path), file.name, number + 1, None, problem)


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
