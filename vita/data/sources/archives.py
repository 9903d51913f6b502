"""Readers of zip and tar archives: the rows of every member, in the order of the archive.

Nothing is unpacked to disk, so a member's name cannot lead out of the archive. Members are streamed; an archive that
expands beyond `MAX_RATIO` times its size is refused, and an archive inside an archive is skipped.
"""

from __future__ import annotations

import io
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath
from typing import Any, Self
from urllib.parse import quote

from vita.data.sources import streams
from vita.data.sources.columnar_readers import open_seekable
from vita.data.sources.files import DamagedFile, SourceFile, verify
from vita.data.sources.readers import DAMAGED_FILE, READERS, ReadOptions, Row, RowProblem, empty_file, format_of
from vita.data.sources.zip_directories import ZIP_ERRORS, is_zip_error, open_zip
from vita.spine.errors import exception_text
from vita.spine.file_listing import printable
from vita.spine.plain_text import counted
from vita.spine.url_secrets import links_of_chain, without_user_and_query

MAX_RATIO = 200
"""Largest ratio of the content of an archive to its size; text seldom has more than 20."""
MIN_LIMIT_BYTES = 2**30
"""Content in bytes that is read in every case."""
_HELD_BYTES = 2**20
"""Members up to this size are held in memory while they are read."""
_PIECE_BYTES = 2**15
"""Bytes of a member that are read at once; the bytes before damage in them are lost."""
_RECORD_BLOCKS = tarfile.RECORDSIZE // tarfile.BLOCKSIZE
_SubsequentHeaderError: type[tarfile.HeaderError] = vars(tarfile)["SubsequentHeaderError"]
"""Raised for a block that is no header after one with a long name or with PAX fields, and ends the reading."""
_InvalidHeaderError: type[tarfile.HeaderError] = vars(tarfile)["InvalidHeaderError"]
_ERRORS = (tarfile.TarError, *ZIP_ERRORS)


@READERS.add("zip")
def read_zip(file: SourceFile, wishes: ReadOptions) -> Iterator[Row]:
    """Read the members of a zip archive; an EPUB or Word file, which is a zip archive, is one document."""
    with open_seekable(file) as handle:
        try:
            archive, problem = open_zip(handle)
            format = _office_format(archive)
            if format and problem and archive.infolist()[0].filename.startswith(_OFFICE_NAMES):
                raise zipfile.BadZipFile(problem)  # such a file is one document, which is not whole
        except zipfile.BadZipFile as error:
            problem = f"cannot be read as zip: {error}"
            raise DamagedFile(file.path, problem, hint="copy or download it again") from None
        with archive:
            if format and not problem:
                if file.opener:  # a member of an archive is read only once
                    handle.seek(0)
                    file = file._replace(opener=lambda: handle)
                yield from READERS[format](file, wishes)
                return
            budget = _Budget(file)
            if problem:
                got = f"no usable directory ({problem}); the members that were found by their headers are read"
                yield _problem_row(file, 0, RowProblem(DAMAGED_FILE, "a directory at the end of the archive", got))
            for number, info in enumerate(archive.infolist(), 1):
                if info.filename.endswith("/"):
                    continue
                if _is_hidden(info.filename):
                    yield _hidden_row(file, number, info.filename)
                    continue
                if info.flag_bits & 1:
                    got = f"the encrypted member {printable(info.filename)}"
                    yield _problem_row(file, number, RowProblem("encrypted", "members without a password", got))
                    continue
                if stat.S_ISLNK(info.external_attr >> 16):
                    yield _link_row(file, number, info.filename)
                    continue
                open_member = _member_opener(archive, info, budget)
                yield from _member_rows(file, number, info.filename, info.file_size, open_member, wishes)
    verify(file)  # not read sequentially


def _member_opener(archive: zipfile.ZipFile, info: zipfile.ZipInfo, budget: _Budget) -> Callable[[], Any]:
    def open_member() -> io.BufferedReader:
        try:
            return io.BufferedReader(_Member(archive.open(info), budget))
        except (*_ERRORS, OSError) as error:  # a damaged header, or a compression that Python lacks
            if not is_zip_error(error):
                raise
            raise _damaged_member(error) from None

    return open_member


_OFFICE_NAMES = ("[Content_Types].xml", "_rels/", "docProps/", "word/", "mimetype", "META-INF/")
"""Beginnings of the names of the first member of an EPUB or Word file."""


def _office_format(archive: zipfile.ZipFile) -> str | None:
    names = {info.filename for info in archive.infolist()[:5000]}
    if "word/document.xml" in names:
        return "docx"
    return "epub" if "META-INF/container.xml" in names else None


@READERS.add("tar")
def read_tar(file: SourceFile, wishes: ReadOptions) -> Iterator[Row]:
    """Read the regular files of a tar archive; links and devices are not read.

    After a damaged header, reading continues at the next valid one.
    """
    budget = _Budget(file)
    gap, number = _Gap(budget), 0
    with streams.open_sequential(file) as stream:
        try:
            with tarfile.open(fileobj=stream, mode="r|", tarinfo=_headers(gap), ignore_zeros=True) as archive:
                for number, info in enumerate(archive, 1):
                    if gap.take() and not gap.is_end_of_archive(info.offset):
                        yield _problem_row(
                            file, number, RowProblem(DAMAGED_FILE, "headers of members", gap.description)
                        )
                    if info.isdir():
                        continue
                    if _is_hidden(info.name):
                        yield _hidden_row(file, number, info.name)
                        continue
                    if not info.isreg():
                        yield _link_row(file, number, info.name)
                        continue
                    content = archive.extractfile(info)
                    assert content is not None
                    # A tar stream has one position: a member is read only once.
                    handle = io.BufferedReader(_Member(content, budget))
                    yield from _member_rows(file, number, info.name, info.size, lambda handle=handle: handle, wishes)
                gap.take()
                if end := gap.doubtful_end:
                    problem = RowProblem(DAMAGED_FILE, f"2 to {_RECORD_BLOCKS + 1} blocks of zeros at the end", end)
                    yield _problem_row(file, number + 1, problem, skipped=True)
                elif gap.num_damaged and not gap.is_padding:
                    raise DamagedFile(file.path, f"has {gap.description} at its end", hint="copy or download it again")
        except tarfile.TarError as error:
            raise DamagedFile(file.path, f"cannot be read as tar: {error}", hint="copy or download it again") from None


class _Gap:
    """The blocks of a tar archive between two members that are no headers.

    An archive ends with two or more blocks of zeros and padding. Another archive can follow, whose members are read.
    """

    def __init__(self, budget: _Budget) -> None:
        self._budget = budget
        self._blocks: list[int] = [0, 0, 0]
        self.is_cut_off = False
        """True if the last block was not whole: the archive ends in it."""
        self.num_zeros = self.num_damaged = self.num_after_zeros = 0
        """Blocks of zeros, other blocks, and those of the latter after two or more blocks of zeros."""

    def add(self, block: bytes) -> None:
        """Count a block; an archive can expand to zeros without an end."""
        self._budget.spend(len(block))
        self.is_cut_off = len(block) < tarfile.BLOCKSIZE
        if block.strip(b"\0"):
            self._blocks[1] += 1
            self._blocks[2] += self._blocks[0] >= 2
        elif block:
            self._blocks[0] += 1

    def take(self) -> bool:
        """Take the blocks since the last member; return False if there are none."""
        self.num_zeros, self.num_damaged, self.num_after_zeros = self._blocks
        self._blocks = [0, 0, 0]
        return self.num_zeros + self.num_damaged > 0

    @property
    def is_padding(self) -> bool:
        """Return True for blocks after the end of the archive that fill its last record, which some programs do."""
        return self.num_after_zeros == self.num_damaged and self.num_zeros + self.num_damaged <= _RECORD_BLOCKS

    @property
    def doubtful_end(self) -> str | None:
        """Return the end of an archive that has no mark of its end, or zeros in place of members, for messages."""
        if self.num_damaged or 2 <= self.num_zeros <= _RECORD_BLOCKS + 1:
            return None
        return f"{counted(self.num_zeros, 'block')}: members may be missing"

    def is_end_of_archive(self, offset: int) -> bool:
        """Return True for the end of an archive to which another one was appended, which begins at `offset`."""
        is_aligned = offset % tarfile.RECORDSIZE == 0 and self.num_zeros < _RECORD_BLOCKS + 2
        return not self.num_damaged and (self.num_zeros == 2 or (self.num_zeros > 2 and is_aligned))

    @property
    def description(self) -> str:
        """Return the size of the gap, for messages."""
        blocks = counted(self.num_damaged + self.num_zeros, "block")
        return f"{blocks} of {tarfile.BLOCKSIZE} bytes without the header of a member"


def _headers(gap: _Gap) -> type[tarfile.TarInfo]:
    """Return the type of the headers of an archive, which counts the blocks that are none."""

    class Header(tarfile.TarInfo):
        @classmethod
        def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
            try:
                return super().frombuf(buf, encoding, errors)
            except tarfile.HeaderError:
                gap.add(bytes(buf))
                raise

        @classmethod
        def fromtarfile(cls, tarfile: tarfile.TarFile) -> Self:
            try:
                return super().fromtarfile(tarfile)
            except _SubsequentHeaderError as error:
                if gap.is_cut_off:
                    raise
                raise _InvalidHeaderError(str(error)) from None

    return Header


def _is_hidden(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return any((part.startswith(".") and part != "..") or part == "__MACOSX" for part in parts)


def _hidden_row(file: SourceFile, number: int, name: str) -> Row:
    problem = RowProblem("hidden_member", "members that are not hidden", f"the hidden member {printable(name)}")
    return _problem_row(file, number, problem, skipped=True)


def _link_row(file: SourceFile, number: int, name: str) -> Row:
    problem = RowProblem("not_a_file", "regular files", f"the member {printable(name)}, a link or device")
    return _problem_row(file, number, problem, skipped=True)


def _member_rows(
    file: SourceFile, number: int, name: str, size: int, opener: Callable[[], Any], wishes: ReadOptions
) -> Iterator[Row]:
    """Yield the rows of a member; its ids begin with the name of the archive."""
    parts = [part for part in PurePosixPath(name).parts if part not in ("/", "..")]
    inner = printable("/".join(parts))
    path = f"{file.path}/{inner}"
    if "://" in file.path:  # the name of the member belongs before the query of an address, and before its archive
        archive, *outer = links_of_chain(without_user_and_query(file.path))
        path = "::".join([f"{archive}/{quote(inner)}", *outer])
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
    handle, data, damage = streams.open_binary(member), bytearray(), None
    try:
        while len(data) < _HELD_BYTES and (piece := handle.read1(_PIECE_BYTES)):
            data += piece
    except DamagedFile as error:
        damage = error  # raised after the bytes before it
    content = bytes(data)
    if len(content) < _HELD_BYTES and not damage:
        return member._replace(opener=lambda: io.BytesIO(content)), streams.decompressed_head(member, content)

    def rest() -> Iterator[bytes]:
        yield content
        if damage:
            raise damage
        yield from iter(lambda: handle.read(2**20), b"")

    stream = streams.StreamReader(rest())
    reader = stream if damage else io.BufferedReader(stream)  # a buffer would lose the bytes before the damage
    return member._replace(opener=lambda: reader), streams.decompressed_head(member, content)


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


def _damaged_member(error: Exception) -> DamagedFile:
    return DamagedFile("member", f"is damaged ({exception_text(error)})")


class _Member(io.RawIOBase):
    """The content of a member; errors of the archive libraries become `DamagedFile`."""

    def __init__(self, content: Any, budget: _Budget) -> None:
        self._content, self._budget = content, budget

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            data = self._content.read(len(buffer))
        except (*_ERRORS, OSError) as error:
            if isinstance(error, OSError) and not is_zip_error(error):
                raise
            raise _damaged_member(error) from None
        self._budget.spend(len(data))
        buffer[: len(data)] = data
        return len(data)
