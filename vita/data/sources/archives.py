"""Readers of zip and tar archives: the rows of every member, in the order of the archive.

Nothing is unpacked to disk, so a member's name cannot lead out of the archive. Members are streamed; an archive that
expands beyond `MAX_RATIO` times its size is refused, and an archive inside an archive is skipped.
"""

from __future__ import annotations

import io
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote

from vita.data.sources import streams
from vita.data.sources.columnar_readers import open_seekable
from vita.data.sources.files import DamagedFile, SourceFile
from vita.data.sources.readers import DAMAGED_FILE, READERS, ReadOptions, Row, RowProblem, empty_file, format_of
from vita.spine.file_listing import printable
from vita.spine.plain_text import counted
from vita.spine.url_secrets import without_user_and_query

MAX_RATIO = 200
"""Largest ratio of the content of an archive to its size; text seldom has more than 20."""
MIN_LIMIT_BYTES = 2**30
"""Content in bytes that is read in every case."""
_HELD_BYTES = 2**20
"""Members up to this size are held in memory while they are read."""
_ERRORS = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    NotImplementedError,
    RuntimeError,
)


@READERS.add("zip")
def read_zip(file: SourceFile, wishes: ReadOptions) -> Iterator[Row]:
    """Read the members of a zip archive; an EPUB or Word file, which is a zip archive, is one document."""
    with open_seekable(file) as handle:
        try:
            archive = zipfile.ZipFile(handle)
        except _ERRORS as error:
            problem = f"cannot be read as zip: {error}"
            raise DamagedFile(file.path, problem, hint="copy or download it again") from None
        with archive:
            if format := _office_format(archive):
                yield from READERS[format](file, wishes)
                return
            budget = _Budget(file)
            for number, info in enumerate(archive.infolist(), 1):
                if info.is_dir():
                    continue
                if _is_hidden(info.filename):
                    yield _hidden_row(file, number, info.filename)
                    continue
                if info.flag_bits & 1:
                    got = f"the encrypted member {printable(info.filename)}"
                    yield _problem_row(file, number, RowProblem("encrypted", "members without a password", got))
                    continue
                open_member = _member_opener(archive, info, budget)
                yield from _member_rows(file, number, info.filename, info.file_size, open_member, wishes)


def _member_opener(archive: zipfile.ZipFile, info: zipfile.ZipInfo, budget: _Budget) -> Callable[[], Any]:
    return lambda: io.BufferedReader(_Member(archive.open(info), budget))


def _office_format(archive: zipfile.ZipFile) -> str | None:
    names = {info.filename for info in archive.infolist()[:5000]}
    if "word/document.xml" in names:
        return "docx"
    return "epub" if "META-INF/container.xml" in names else None


@READERS.add("tar")
def read_tar(file: SourceFile, wishes: ReadOptions) -> Iterator[Row]:
    """Read the regular files of a tar archive; links and devices are not read."""
    budget = _Budget(file)
    with streams.open_sequential(file) as stream:
        try:
            with tarfile.open(fileobj=stream, mode="r|") as archive:
                for number, info in enumerate(archive, 1):
                    if info.isdir():
                        continue
                    if _is_hidden(info.name):
                        yield _hidden_row(file, number, info.name)
                        continue
                    if not info.isreg():
                        got = f"the member {printable(info.name)}, a link or device"
                        yield _problem_row(file, number, RowProblem("not_a_file", "regular files", got), skipped=True)
                        continue
                    content = archive.extractfile(info)
                    assert content is not None
                    # A tar stream has one position: a member is read only once.
                    handle = io.BufferedReader(_Member(content, budget))
                    yield from _member_rows(file, number, info.name, info.size, lambda handle=handle: handle, wishes)
        except tarfile.TarError as error:
            raise DamagedFile(file.path, f"cannot be read as tar: {error}", hint="copy or download it again") from None


def _is_hidden(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return any((part.startswith(".") and part != "..") or part == "__MACOSX" for part in parts)


def _hidden_row(file: SourceFile, number: int, name: str) -> Row:
    problem = RowProblem("hidden_member", "members that are not hidden", f"the hidden member {printable(name)}")
    return _problem_row(file, number, problem, skipped=True)


def _member_rows(
    file: SourceFile, number: int, name: str, size: int, opener: Callable[[], Any], wishes: ReadOptions
) -> Iterator[Row]:
    """Yield the rows of a member; its ids begin with the name of the archive."""
    parts = [part for part in PurePosixPath(name).parts if part not in ("/", "..")]
    inner = printable("/".join(parts))
    path = f"{file.path}/{inner}"
    if "://" in file.path:  # the name of the member belongs before the query of an address
        path = f"{without_user_and_query(file.path)}/{quote(inner)}"
    member = SourceFile(path, f"{file.name}/{inner}", size, opener=opener)
    rows = 0
    try:
        member, head = _peek(member)
        format = format_of(member, head, wishes)
        if format in ("zip", "tar") and member.suffix not in ("docx", "epub"):
            problem = RowProblem("nested_archive", "members that are files", f"the archive {inner} inside an archive")
            yield _problem_row(file, number, problem, skipped=True)
            return
        if format is None:
            problem = RowProblem("no_reader", "members of a known format", f"the member {inner}")
            yield _problem_row(file, number, problem, skipped=True)
            return
        for row in READERS[format](member, wishes):
            rows += 1
            yield row
        if not rows:
            yield empty_file(member)
    except DamagedFile as error:
        if error.where == file.path:
            raise  # the archive itself, not the member
        got = f"a problem in {inner} after {counted(rows, 'row')}: {error.summary}"
        yield _problem_row(file, number, RowProblem(DAMAGED_FILE, "a member that can be read to its end", got))


def _peek(member: SourceFile) -> tuple[SourceFile, bytes]:
    """Return (the member, its first decompressed bytes); the content of a tar archive can be read only once."""
    handle = streams.open_binary(member)
    data = handle.read(_HELD_BYTES)
    if len(data) < _HELD_BYTES:
        return member._replace(opener=lambda: io.BytesIO(data)), streams.decompressed_head(member, data)
    rest = io.BufferedReader(streams.StreamReader(chain([data], iter(lambda: handle.read(2**20), b""))))
    return member._replace(opener=lambda: rest), streams.decompressed_head(member, data)


def _problem_row(file: SourceFile, number: int, problem: RowProblem, *, skipped: bool = False) -> Row:
    return Row(printable(file.path), file.name, number, None, problem, is_skipped=skipped)


class _Budget:
    """The number of bytes that the members of an archive may still have together."""

    def __init__(self, file: SourceFile) -> None:
        self._file = file
        self._left = max(MIN_LIMIT_BYTES, MAX_RATIO * file.size)

    def spend(self, count: int) -> None:
        """Raise `DamagedFile` if the archive expands too far."""
        self._left -= count
        if self._left < 0:
            problem = f"expands to more than {MAX_RATIO} times its size"
            raise DamagedFile(self._file.path, problem, hint="unpack it, if its source is trusted")


class _Member(io.RawIOBase):
    """The content of a member; errors of the archive libraries become `DamagedFile`."""

    def __init__(self, content: Any, budget: _Budget) -> None:
        self._content, self._budget = content, budget

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            data = self._content.read(len(buffer))
        except _ERRORS as error:
            raise DamagedFile("member", f"is damaged ({error or type(error).__name__})") from None
        self._budget.spend(len(data))
        buffer[: len(data)] = data
        return len(data)
