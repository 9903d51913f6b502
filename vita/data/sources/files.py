"""The bytes of a file, wherever it lies and however it is compressed, in bounded memory.

A file, folder, glob or URL (`s3://...`) becomes a sorted list of `File`s; `chunks`, `lines` and `whole` read one.
What cannot be read is refused in one line: missing, damaged, cut off, binary where text was expected, or changed since
the run began.
"""

from __future__ import annotations

import bz2
import fnmatch
import glob
import hashlib
import lzma
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import zstandard

from vita.data.content import normalize_line_ends
from vita.spine.contents import KnownFile, choose_files, expected_files
from vita.spine.errors import DataError
from vita.spine.file_listing import list_files, printable
from vita.spine.plain_text import counted
from vita.spine.remote_files import list_remote, open_filesystem, remote_errors

LONGEST = 256 * 2**20
"""Bytes of the longest line, or file taken as one piece; a longer one would not fit in bounded memory."""
_BOM = b"\xef\xbb\xbf"


class DamagedFile(DataError):
    """A file whose content cannot be read to its end: cut off, damaged, or not of the kind that its name says.

    A source with `on_bad_row: drop` keeps the rows before the damage, counts the file and goes on.
    """

    @property
    def summary(self) -> str:
        """What is wrong, without the file's path."""
        return str(self).removeprefix(f"{self.where}: ")


@dataclass(frozen=True, slots=True)
class File:
    """A file to read: its path or URL, its printable name inside what the user named, and its size on disk in bytes."""

    path: str
    name: str
    size: int
    known: KnownFile | None = None
    """What it held when the run began; what is read is compared with it."""

    @property
    def suffix(self) -> str:
        """What it holds, by its name: `jsonl` for `a.jsonl.zst`."""
        name = PurePosixPath(self.path)
        if name.suffix.lower() in _DECOMPRESSORS:
            name = name.with_suffix("")
        return name.suffix.lower().removeprefix(".")


def find(path: str, *, exclude: Iterable[str] = (), where: str) -> list[File]:
    """The files that a file, folder, glob or URL names, in order of their names, without those excluded by a glob.

    During a run these are the files that the run was begun with.
    """
    found = _find_remote(path, where) if "://" in path else _find_local(path, where)
    kept = [file for file in found if not any(_matches(file, pattern) for pattern in exclude)]
    if not kept:
        raise DataError(
            where, f"{path}: {counted(len(found), 'file')} found, and every file is excluded by {', '.join(exclude)}"
        )
    return sorted(kept, key=lambda file: file.name)


def choose(path: str, found: Iterable[File]) -> None:
    """Note which of the files that `find` gave are read: only these must stay as they are until the run ends."""
    choose_files(path, [file.known for file in found if file.known])


def chunks(file: File) -> Iterator[bytes]:
    """The decompressed bytes, piece by piece."""
    suffix = PurePosixPath(file.path).suffix.lower()
    # What stands before a damage in the same piece is lost, so that compressed pieces are small.
    read = _read(file, 2**20 if suffix not in _DECOMPRESSORS else 2**15)
    return _decompress(file, read, _DECOMPRESSORS[suffix]) if suffix in _DECOMPRESSORS else read


def lines(file: File) -> Iterator[bytes]:
    """Yield the lines of a text file without their ends (LF, CR LF or CR) and without a byte-order mark."""
    pending: list[bytes] = []
    length = 0
    for chunk in _with_line_feeds(_text_chunks(file)):
        first, *rest = chunk.split(b"\n")
        pending.append(first)
        length += len(first)
        if length > LONGEST:
            raise DamagedFile(file.path, f"has a line of more than {LONGEST >> 20} MiB")
        if rest:
            yield b"".join(pending)
            yield from rest[:-1]
            pending, length = [rest[-1]], len(rest[-1])
    if length:
        yield b"".join(pending)


def text_lines(file: File) -> Iterator[bytes]:
    """Yield the lines of plain text, which also end at the line separators of Unicode (see `plain_line_ends`)."""
    for line in lines(file):
        plain = normalize_line_ends(line)
        if plain is line:
            yield line
        else:
            yield from plain.split(b"\n")


def _with_line_feeds(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """CR LF and CR as LF; a CR at the end of a piece waits for the next piece, which may begin with its LF."""
    waits = False
    for piece in pieces:
        if waits:
            piece = b"\r" + piece
        waits = piece.endswith(b"\r")
        piece = piece[:-1] if waits else piece
        if b"\r" in piece:
            piece = piece.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        if piece:
            yield piece
    if waits:
        yield b"\n"


def whole(file: File, *, hint: str) -> bytes:
    """All bytes of a text file, without a byte-order mark; `hint` says what to do when it is too large for that."""
    pieces: list[bytes] = []
    length = 0
    for chunk in _text_chunks(file):
        pieces.append(chunk)
        length += len(chunk)
        if length > LONGEST:
            raise DamagedFile(file.path, f"is larger than {LONGEST >> 20} MiB, too large for one piece", hint=hint)
    return b"".join(pieces)


def open_binary(file: File) -> Any:
    """The file as a seekable binary handle."""
    try:
        if "://" not in file.path:
            return Path(file.path).open("rb")
        with remote_errors(file.path, family=DataError):
            files, path = open_filesystem(file.path)
            return files.open(path, "rb")
    except OSError as error:
        verify(file)  # a file that vanished since the run began is told so
        raise _unreadable(file.path, error) from None


# -- finding


def _find_local(path: str, where: str) -> list[File]:
    if (known := expected_files(path)) is not None:
        return [File(file.path, file.name, file.size, file) for file in known]
    return [File(file.path, file.name, file.state.st_size) for file in list_files(path, where=where)]


def _before_magic(pattern: Path) -> Iterator[str]:
    for part in pattern.parts:
        if glob.has_magic(part):
            return
        yield part


def _find_remote(url: str, where: str) -> list[File]:
    with remote_errors(url, where=where, family=DataError):
        files, base = open_filesystem(url)
        infos = list_remote(files, base)
    root = "/".join(_before_magic(Path(base))).lstrip("/") if glob.has_magic(base) else base.strip("/")
    expected = expected_files(url)
    known = {file.path: file for file in expected or ()}
    if expected is not None:
        infos = {path: info for path, info in infos.items() if files.unstrip_protocol(path) in known}
    found = [
        File(address := files.unstrip_protocol(path), _below(path, root), info["size"] or 0, known.get(address))
        for path, info in infos.items()
        if info["type"] == "file" and not any(part.startswith(".") for part in _below(path, root).split("/"))
    ]
    if not found:
        raise DataError(where, f"{url}: there is no such file, and no file below it or matching it")
    return found


def _below(path: str, root: str) -> str:
    inside = path.strip("/").removeprefix(root).strip("/")
    return inside or PurePosixPath(path).name


def _matches(file: File, pattern: str) -> bool:
    return fnmatch.fnmatchcase(file.name, pattern) or fnmatch.fnmatchcase(PurePosixPath(file.name).name, pattern)


# -- reading


def verify(file: File) -> None:
    """Refuse a file that changed since the run began."""
    if file.known:
        file.known.verify()


def _read(file: File, size: int) -> Iterator[bytes]:
    """The bytes of a file; at its end they are compared with what the run's identity says of them."""
    digest = hashlib.sha256()
    with open_binary(file) as handle:
        while chunk := _next(handle, size, file):
            digest.update(chunk)
            yield chunk
    if file.known and "://" not in file.path:
        file.known.compare(digest.hexdigest())
    verify(file)


def _next(handle: Any, size: int, file: File) -> bytes:
    try:
        if "://" not in file.path:
            return handle.read(size)
        with remote_errors(file.path, family=DataError):
            return handle.read(size)
    except OSError as error:
        raise _unreadable(file.path, error) from None


def _unreadable(path: str, error: OSError) -> DataError:
    path = printable(path)
    if isinstance(error, FileNotFoundError):
        return DataError(path, "there is no such file")
    return DataError(path, f"cannot be read: {error.strerror or error}")


class _Decompressor(Protocol):
    """What bz2, lzma, zlib and zstandard share."""

    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, /) -> bytes: ...


_LONGEST_WINDOW = 2**31
"""Bytes of history that a zstd frame may refer to: the most that `zstd --long=31` writes."""

# Not zstandard's stream reader: that one ends without a word where a frame is cut off.
_DECOMPRESSORS: dict[str, Callable[[], _Decompressor]] = {
    ".gz": lambda: zlib.decompressobj(wbits=31),
    ".zst": lambda: zstandard.ZstdDecompressor(max_window_size=_LONGEST_WINDOW).decompressobj(),
    ".bz2": bz2.BZ2Decompressor,
    ".xz": lzma.LZMADecompressor,
}


def _decompress(file: File, compressed: Iterable[bytes], start: Callable[[], _Decompressor]) -> Iterator[bytes]:
    """Concatenated frames, each of which must be whole."""
    frame: _Decompressor | None = None
    given, frames, head = 0, 0, b""
    for chunk in compressed:
        head = head or chunk[:8]
        while chunk:
            if frame is None:
                frame, frames = start(), frames + 1
            try:
                out = frame.decompress(chunk)
            except (zlib.error, zstandard.ZstdError, lzma.LZMAError, OSError) as error:
                raise _damaged(file, head, given, error) from None
            given += len(out)
            if out:
                yield out
            chunk = b""
            if frame.eof:
                chunk, frame = frame.unused_data.lstrip(b"\0"), None  # gzip allows zeros as padding behind its frames
    if frame is not None or not frames:
        raise DamagedFile(file.path, f"is cut off after {given:,} bytes of text", hint="copy or download it again")


def _damaged(file: File, head: bytes, given: int, error: Exception) -> DamagedFile:
    kind = PurePosixPath(file.path).suffix.lower()
    if not any(head.startswith(magic) and meaning.endswith(f" {kind}") for magic, meaning in _MAGIC.items()):
        return DamagedFile(
            file.path, expected=f"a {kind} file", got=f"other bytes ({error})", hint="rename or replace it"
        )
    return DamagedFile(
        file.path, f"is damaged after {given:,} bytes of text ({error})", hint="copy or download it again"
    )


# -- text or not

_MAGIC = {
    b"\x1f\x8b": "gzip; name it .gz",
    b"\x28\xb5\x2f\xfd": "zstd; name it .zst",
    b"BZh": "bzip2; name it .bz2",
    b"\xfd7zXZ": "xz; name it .xz",
    b"PK\x03\x04": "zip or an office document; unpack it first",
    b"%PDF": "PDF; extract its text first",
    b"\x89PNG": "a PNG picture",
    b"\xff\xd8\xff": "a JPEG picture",
    b"PAR1": "parquet; name it .parquet",
    b"\x7fELF": "a program",
    b"\xff\xfe\0\0": "UTF-32; convert it to UTF-8",
    b"\0\0\xfe\xff": "UTF-32; convert it to UTF-8",
    b"\xff\xfe": "UTF-16; convert it to UTF-8 (iconv -f UTF-16 -t UTF-8)",
    b"\xfe\xff": "UTF-16; convert it to UTF-8 (iconv -f UTF-16 -t UTF-8)",
}


def _text_chunks(file: File) -> Iterator[bytes]:
    first = True
    for chunk in chunks(file):
        if first:
            _refuse_binary(file, chunk)
            chunk, first = chunk.removeprefix(_BOM), False
        yield chunk


def _refuse_binary(file: File, head: bytes) -> None:
    for magic, meaning in _MAGIC.items():
        if head.startswith(magic):
            raise DamagedFile(file.path, expected="text in UTF-8", got=f"bytes that look like {meaning}")
    if b"\0" not in head[:65536]:
        return
    if endian := _utf16_without_mark(head[:4096]):
        got = f"bytes that look like UTF-16{endian} without a byte-order mark"
        raise DamagedFile(
            file.path, expected="text in UTF-8", got=got, hint=f"convert it: iconv -f UTF-16{endian} -t UTF-8"
        )
    got = "a binary file (it holds zero bytes)"
    raise DamagedFile(file.path, expected="text in UTF-8", got=got, hint="take it out of the source")


def _utf16_without_mark(head: bytes) -> str | None:
    """`LE` or `BE` where every other byte is mostly zero, as in UTF-16 of Latin text."""
    even, odd = head[0::2], head[1::2]
    for endian, zeros, letters in (("LE", odd, even), ("BE", even, odd)):
        if zeros.count(0) > 0.7 * len(zeros) and letters.count(0) < 0.05 * max(1, len(letters)):
            return endian
    return None
