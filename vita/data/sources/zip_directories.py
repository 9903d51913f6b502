"""Opening of zip archives, also of those whose directory, at the end of the file, is missing or damaged.

    archive, problem = open_zip(handle)      # problem: None, or why the directory could not be used

Without a directory, the members are found by their headers, which are in front of their content (APPNOTE 4.3.7). The
size of a member that was written to a stream follows its content (4.3.9).
"""

from __future__ import annotations

import errno
import io
import lzma
import struct
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any

ZIP_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    NotImplementedError,
    RuntimeError,
    ValueError,
    OverflowError,
    struct.error,
)
"""The errors of `zipfile` for damaged archives; it does not check positions and names (see also `is_zip_error`)."""
_HEADER = struct.Struct("<4s5H3L2H")
_SIGNATURE = b"PK\x03\x04"
_DESCRIPTOR = b"PK\x07\x08"
_END = b"PK\x05\x06"
"""The signature of the record at the end of the archive, with the number of members."""
_MAX_END_BYTES = 22 + 2**16
_NO_COUNT = 0xFFFF
"""The number of members in an archive that states it in 64 bits."""
_FOLLOWING = (_SIGNATURE, _DESCRIPTOR, b"PK\x01\x02", _END, b"PK\x06\x06", b"PK\x06\x08")
"""Signatures that follow the content of a member."""
_IS_STREAMED, _IS_UTF8 = 0x8, 0x800
"""Flags of a member whose sizes are behind its content, and of a name in UTF-8."""
_EMPTY_ARCHIVE = _END + bytes(18)
_MAX_METHOD, _MAX_NAME_BYTES = 99, 4096
_LARGE = 2**32 - 1
"""A size that is in a field of 64 bits instead."""
_UNKNOWN_BYTES = 2**62
_WINDOW_BYTES = 2**20


def is_zip_error(error: Exception) -> bool:
    """Return True for an error of `zipfile` or its decompressors, in contrast to one of the disk or network."""
    if isinstance(error, OSError):  # bz2 raises it without a number, and a wrong position is an invalid argument
        return type(error) is OSError and error.errno in (None, errno.EINVAL)
    return isinstance(error, ZIP_ERRORS)


def open_zip(handle: Any) -> tuple[zipfile.ZipFile, str | None]:
    """Return (the archive, the problem of its directory); raises `zipfile.BadZipFile` if there are no members, either.

    A part of an archive can end with the directory of an archive inside it, whose first member is not at its beginning.
    """
    try:
        archive = zipfile.ZipFile(handle)
        problem = _directory_problem(archive, handle)
        if problem is None:
            return archive, None
    except (*ZIP_ERRORS, OSError) as error:
        if not is_zip_error(error):
            raise
        problem = str(error)
    members = list(_members(handle))
    if not members:
        raise zipfile.BadZipFile(problem)
    archive = zipfile.ZipFile(io.BytesIO(_EMPTY_ARCHIVE))
    archive.fp = handle
    archive.filelist.extend(members)
    return archive, problem


def _directory_problem(archive: zipfile.ZipFile, handle: Any) -> str | None:
    """Return why the directory of an archive is not its own or not whole; None for a whole one."""
    offsets = [info.header_offset for info in archive.infolist()]
    handle.seek(0)
    if handle.read(len(_SIGNATURE)) == _SIGNATURE and min(offsets, default=-1) != 0:
        return "its directory is that of another archive, or bytes before it are missing"
    handle.seek(max(0, handle.seek(0, io.SEEK_END) - _MAX_END_BYTES))
    end = handle.read()
    (count,) = struct.unpack_from("<H", end, end.rindex(_END) + 10)
    if count not in (_NO_COUNT, len(offsets) % 2**16):
        return f"its directory has {len(offsets)} of {count} members"
    return None


def _members(handle: Any) -> Iterator[zipfile.ZipInfo]:
    """Yield the members in front of whose content a header is found."""
    size, position = handle.seek(0, io.SEEK_END), 0
    while (position := _find(handle, _SIGNATURE, position)) is not None:
        member = _member_at(handle, position)
        if member is None:
            position += 1
            continue
        info, start = member
        if info.flag_bits & _IS_STREAMED and not info.compress_size:
            _set_streamed_sizes(handle, info, start, size)
        end = start + info.compress_size
        handle.seek(end)
        if end < size and not handle.read(4).startswith(_FOLLOWING):  # bytes of the member, or its size, are damaged
            end = _next_header(handle, start, size)
            info.compress_size = min(info.compress_size, end - start)
        yield info
        position = end


def _member_at(handle: Any, position: int) -> tuple[zipfile.ZipInfo, int] | None:
    """Return (the member, the position of its content) for the header at a position; None if it is no header."""
    handle.seek(position)
    header = handle.read(_HEADER.size)
    if len(header) < _HEADER.size:
        return None
    _, _, flags, method, _, _, crc, compressed, size, name_bytes, extra_bytes = _HEADER.unpack(header)
    name, extra = handle.read(name_bytes), handle.read(extra_bytes)
    if method > _MAX_METHOD or not 0 < name_bytes <= _MAX_NAME_BYTES or b"\0" in name or len(extra) < extra_bytes:
        return None
    try:
        info = zipfile.ZipInfo(name.decode("utf-8" if flags & _IS_UTF8 else "cp437"))
    except UnicodeDecodeError:
        return None
    large = iter(_large_sizes(extra))
    info.file_size = next(large, size) if size == _LARGE else size
    info.compress_size = next(large, compressed) if compressed == _LARGE else compressed
    info.header_offset, info.flag_bits, info.compress_type, info.CRC = position, flags, method, crc
    return info, position + _HEADER.size + name_bytes + extra_bytes


def _large_sizes(extra: bytes) -> list[int]:
    """Return the sizes of 64 bits in the extra fields of a header."""
    while len(extra) >= 4:
        kind, length = struct.unpack_from("<2H", extra)
        if kind == 1:
            return [number for (number,) in struct.iter_unpack("<Q", extra[4 : 4 + length // 8 * 8])]
        extra = extra[4 + length :]
    return []


def _set_streamed_sizes(handle: Any, info: zipfile.ZipInfo, start: int, size: int) -> None:
    """Set the sizes and the checksum of a member from the descriptor behind its content, which states its distance."""
    position: int | None = start
    while (position := _find(handle, _DESCRIPTOR, position)) is not None:
        handle.seek(position + len(_DESCRIPTOR))
        data = handle.read(20).ljust(20, b"\0")
        for form in ("<LQQ", "<LLL"):
            crc, compressed, length = struct.unpack_from(form, data)
            if compressed == position - start:
                info.CRC, info.compress_size, info.file_size = crc, compressed, length
                return
        position += 1
    info.compress_size, info.file_size = _next_header(handle, start, size) - start, _UNKNOWN_BYTES


def _next_header(handle: Any, start: int, size: int) -> int:
    """Return the position of the next header of a member from `start`, or the size of the file."""
    position: int | None = start
    while (position := _find(handle, _SIGNATURE, position)) is not None:
        if _member_at(handle, position):
            return position
        position += 1
    return size


def _find(handle: Any, pattern: bytes, start: int) -> int | None:
    """Return the position of a pattern from `start`, or None."""
    handle.seek(start)
    window = b""
    while piece := handle.read(_WINDOW_BYTES):
        window += piece
        if (index := window.find(pattern)) >= 0:
            return start + index
        kept = window[-len(pattern) + 1 :]
        start += len(window) - len(kept)
        window = kept
    return None
