"""Reading of local, remote and compressed files in bounded memory.

A file, folder, glob or URL (`s3://...`) becomes a sorted list of `SourceFile`s, which `chunks`, `lines` and `read_text`
read. A file that cannot be read is refused with a one-line error: missing, damaged, truncated, binary where text was
expected, or changed since the run began.
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

MAX_BYTES = 256 * 2**20
"""Largest size in bytes of a line, and of a file that is read at once; limits the memory."""
_BOM = b"\xef\xbb\xbf"


class DamagedFile(DataError):
    """An error for a file that cannot be read to the end: truncated, damaged, or of another type than its name.

    A source with `on_bad_row: drop` keeps the rows before the damage, counts the file and continues.
    """

    @property
    def summary(self) -> str:
        """Return the problem without the path of the file."""
        return str(self).removeprefix(f"{self.where}: ")


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file to read: its path or URL, its printable name relative to the source, and its size on disk in bytes."""

    path: str
    name: str
    size: int
    known: KnownFile | None = None
    """The state of the file when the run began, with which the bytes read are compared."""

    @property
    def suffix(self) -> str:
        """Return the file type by name, without compression: `jsonl` for `a.jsonl.zst`."""
        name = PurePosixPath(self.path)
        if name.suffix.lower() in _DECOMPRESSORS:
            name = name.with_suffix("")
        return name.suffix.lower().removeprefix(".")


def find_files(path: str, *, exclude: Iterable[str] = (), where: str) -> list[SourceFile]:
    """Find the files of a file path, folder, glob or URL, sorted by name, without those that a glob excludes.

    During a run these are the files that existed when the run began.
    """
    matches = _find_remote(path, where) if "://" in path else _find_local(path, where)
    files = [file for file in matches if not any(_matches_glob(file, pattern) for pattern in exclude)]
    if not files:
        raise DataError(
            where, f"{path}: {counted(len(matches), 'file')} found, and every file is excluded by {', '.join(exclude)}"
        )
    return sorted(files, key=lambda file: file.name)


def record_selected(path: str, files: Iterable[SourceFile]) -> None:
    """Record which of the files from `find_files` are read: only these must not change until the run ends."""
    choose_files(path, [file.known for file in files if file.known])


def chunks(file: SourceFile) -> Iterator[bytes]:
    """Yield the decompressed bytes in chunks."""
    suffix = PurePosixPath(file.path).suffix.lower()
    # Data before a damaged byte in the same chunk is lost, so compressed chunks are small.
    raw = _read_and_verify(file, 2**20 if suffix not in _DECOMPRESSORS else 2**15)
    return _decompress(file, raw, _DECOMPRESSORS[suffix]) if suffix in _DECOMPRESSORS else raw


def lines(file: SourceFile) -> Iterator[bytes]:
    """Yield the lines of a text file without their ends (LF, CR LF or CR) and without a byte-order mark."""
    pending: list[bytes] = []
    length = 0
    for chunk in _with_line_feeds(_text_chunks(file)):
        first, *rest = chunk.split(b"\n")
        pending.append(first)
        length += len(first)
        if length > MAX_BYTES:
            raise DamagedFile(file.path, f"has a line of more than {MAX_BYTES >> 20} MiB")
        if rest:
            yield b"".join(pending)
            yield from rest[:-1]
            pending, length = [rest[-1]], len(rest[-1])
    if length:
        yield b"".join(pending)


def text_lines(file: SourceFile) -> Iterator[bytes]:
    """Yield the lines of plain text, which also end at Unicode line separators (see `normalize_line_ends`)."""
    for line in lines(file):
        plain = normalize_line_ends(line)
        if plain is line:
            yield line
        else:
            yield from plain.split(b"\n")


def _with_line_feeds(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Replace CR LF and CR by LF; a CR at the end of a piece is held back, since the next piece may begin with LF."""
    pending = False
    for piece in pieces:
        if pending:
            piece = b"\r" + piece
        pending = piece.endswith(b"\r")
        piece = piece[:-1] if pending else piece
        if b"\r" in piece:
            piece = piece.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        if piece:
            yield piece
    if pending:
        yield b"\n"


def read_text(file: SourceFile, *, hint: str) -> bytes:
    """Return all bytes of a text file, without a byte-order mark; `hint` is added to the error for a file too large."""
    pieces: list[bytes] = []
    length = 0
    for chunk in _text_chunks(file):
        pieces.append(chunk)
        length += len(chunk)
        if length > MAX_BYTES:
            raise DamagedFile(file.path, f"is larger than {MAX_BYTES >> 20} MiB, too large for one piece", hint=hint)
    return b"".join(pieces)


def open_binary(file: SourceFile) -> Any:
    """Open a file as a seekable binary handle."""
    try:
        if "://" not in file.path:
            return Path(file.path).open("rb")
        with remote_errors(file.path, family=DataError):
            filesystem, path = open_filesystem(file.path)
            return filesystem.open(path, "rb")
    except OSError as error:
        verify(file)  # raises a specific error for a file that was removed since the run began
        raise _unreadable(file.path, error) from None


# -- finding


def _find_local(path: str, where: str) -> list[SourceFile]:
    if (known := expected_files(path)) is not None:
        return [SourceFile(file.path, file.name, file.size, file) for file in known]
    return [SourceFile(file.path, file.name, file.state.st_size) for file in list_files(path, where=where)]


def _fixed_parts(pattern: Path) -> Iterator[str]:
    for part in pattern.parts:
        if glob.has_magic(part):
            return
        yield part


def _find_remote(url: str, where: str) -> list[SourceFile]:
    with remote_errors(url, where=where, family=DataError):
        filesystem, base = open_filesystem(url)
        entries = list_remote(filesystem, base)
    root = "/".join(_fixed_parts(Path(base))).lstrip("/") if glob.has_magic(base) else base.strip("/")
    expected = expected_files(url)
    known = {file.path: file for file in expected or ()}
    if expected is not None:
        entries = {path: entry for path, entry in entries.items() if filesystem.unstrip_protocol(path) in known}
    files = [
        SourceFile(
            url := filesystem.unstrip_protocol(path), _relative_name(path, root), entry["size"] or 0, known.get(url)
        )
        for path, entry in entries.items()
        if entry["type"] == "file" and not any(part.startswith(".") for part in _relative_name(path, root).split("/"))
    ]
    if not files:
        raise DataError(where, f"{url}: there is no such file, and no file below it or matching it")
    return files


def _relative_name(path: str, root: str) -> str:
    inside = path.strip("/").removeprefix(root).strip("/")
    return inside or PurePosixPath(path).name


def _matches_glob(file: SourceFile, pattern: str) -> bool:
    return fnmatch.fnmatchcase(file.name, pattern) or fnmatch.fnmatchcase(PurePosixPath(file.name).name, pattern)


# -- reading


def verify(file: SourceFile) -> None:
    """Raise an error if a file changed since the run began."""
    if file.known:
        file.known.verify()


def _read_and_verify(file: SourceFile, size: int) -> Iterator[bytes]:
    """Yield the bytes of a file and compare their digest at the end with the identity of the run."""
    digest = hashlib.sha256()
    with open_binary(file) as handle:
        while chunk := _read_chunk(handle, size, file):
            digest.update(chunk)
            yield chunk
    if file.known and "://" not in file.path:
        file.known.compare(digest.hexdigest())
    verify(file)


def _read_chunk(handle: Any, size: int, file: SourceFile) -> bytes:
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
    """The interface that bz2, lzma, zlib and zstandard share."""

    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, /) -> bytes: ...


_MAX_WINDOW = 2**31
"""Maximum window of a zstd frame in bytes: the maximum of `zstd --long=31`."""

# zstandard's stream reader is not used: it ends without an error if a frame is truncated.
_DECOMPRESSORS: dict[str, Callable[[], _Decompressor]] = {
    ".gz": lambda: zlib.decompressobj(wbits=31),
    ".zst": lambda: zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW).decompressobj(),
    ".bz2": bz2.BZ2Decompressor,
    ".xz": lzma.LZMADecompressor,
}


def _decompress(file: SourceFile, compressed: Iterable[bytes], start: Callable[[], _Decompressor]) -> Iterator[bytes]:
    """Decompress concatenated frames, each of which must be complete."""
    frame: _Decompressor | None = None
    num_bytes, frames, head = 0, 0, b""
    for chunk in compressed:
        head = head or chunk[:8]
        while chunk:
            if frame is None:
                frame, frames = start(), frames + 1
            try:
                out = frame.decompress(chunk)
            except (zlib.error, zstandard.ZstdError, lzma.LZMAError, OSError) as error:
                raise _damaged(file, head, num_bytes, error) from None
            num_bytes += len(out)
            if out:
                yield out
            chunk = b""
            if frame.eof:
                chunk, frame = frame.unused_data.lstrip(b"\0"), None  # gzip allows zeros as padding after its frames
    if frame is not None or not frames:
        raise DamagedFile(file.path, f"is cut off after {num_bytes:,} bytes of text", hint="copy or download it again")


def _damaged(file: SourceFile, head: bytes, num_bytes: int, error: Exception) -> DamagedFile:
    kind = PurePosixPath(file.path).suffix.lower()
    if not any(head.startswith(magic) and meaning.endswith(f" {kind}") for magic, meaning in _MAGIC.items()):
        return DamagedFile(
            file.path, expected=f"a {kind} file", got=f"other bytes ({error})", hint="rename or replace it"
        )
    return DamagedFile(
        file.path, f"is damaged after {num_bytes:,} bytes of text ({error})", hint="copy or download it again"
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


def _text_chunks(file: SourceFile) -> Iterator[bytes]:
    first = True
    for chunk in chunks(file):
        if first:
            _refuse_binary(file, chunk)
            chunk, first = chunk.removeprefix(_BOM), False
        yield chunk


def _refuse_binary(file: SourceFile, head: bytes) -> None:
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
    raise DamagedFile(file.path, expected="text in UTF-8", got=got, hint="remove it from the source")


def _utf16_without_mark(head: bytes) -> str | None:
    """Return `LE` or `BE` if every other byte is mostly zero, as in UTF-16 of Latin text."""
    even, odd = head[0::2], head[1::2]
    for endian, zeros, letters in (("LE", odd, even), ("BE", even, odd)):
        if zeros.count(0) > 0.7 * len(zeros) and letters.count(0) < 0.05 * max(1, len(letters)):
            return endian
    return None
