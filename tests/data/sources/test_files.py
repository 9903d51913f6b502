"""Finding files in order, reading them in bounded memory, and clear errors for unusable files."""

from __future__ import annotations

import bz2
import gzip
import lzma
from collections.abc import Callable
from pathlib import Path

import fsspec
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from vita.data.sources import streams
from vita.data.sources.files import SourceFile, find_files
from vita.data.sources.streams import LONG_LINE, SourceText, lines, read_text
from vita.spine.errors import DataError, MissingExtra

TEXT = "".join(f"line {number} of the file, with äöü\n" for number in range(20_000)).encode()
COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".zst": zstandard.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
}


def write_file(path: Path, data: bytes) -> SourceFile:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return SourceFile(str(path), path.name, len(data))


@pytest.mark.parametrize("suffix", COMPRESSIONS)
def test_every_compression_reads_as_the_plain_file(tmp_path: Path, suffix: str) -> None:
    file = write_file(tmp_path / f"a.txt{suffix}", COMPRESSIONS[suffix](TEXT))
    assert list(lines(file)) == TEXT.split(b"\n")[:-1]
    assert file.suffix == "txt"


@pytest.mark.parametrize("suffix", [suffix for suffix in COMPRESSIONS if suffix])
def test_concatenated_frames_read_as_one_file(tmp_path: Path, suffix: str) -> None:
    compress = COMPRESSIONS[suffix]
    file = write_file(tmp_path / f"a.txt{suffix}", compress(b"one\n") + compress(b"two\n") + compress(b""))
    assert list(lines(file)) == [b"one", b"two"]


@pytest.mark.parametrize("suffix", [suffix for suffix in COMPRESSIONS if suffix])
@pytest.mark.parametrize("size", [0, 10, -1])
def test_a_truncated_file_is_an_error(tmp_path: Path, suffix: str, size: int) -> None:
    file = write_file(tmp_path / f"a.jsonl{suffix}", COMPRESSIONS[suffix](TEXT)[:size])
    with pytest.raises(DataError, match=r"a\.jsonl\.\w+: is cut off after [\d,]+ bytes of text; copy"):
        list(lines(file))


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    data = bytearray(gzip.compress(TEXT))
    data[len(data) // 2 : len(data) // 2 + 40] = bytes(40)
    with pytest.raises(DataError, match=r"is damaged after [\d,]+ bytes"):
        list(lines(write_file(tmp_path / "a.txt.gz", bytes(data))))


@pytest.mark.slow
@pytest.mark.parametrize("suffix", COMPRESSIONS)
def test_compression_is_detected_by_content(tmp_path: Path, suffix: str) -> None:
    for name in ("a.txt", "a.txt.zst", "a.txt.gz", "a"):
        assert list(lines(write_file(tmp_path / name, COMPRESSIONS[suffix](TEXT)))) == TEXT.split(b"\n")[:-1]


def test_text_that_begins_like_bzip2_is_text(tmp_path: Path) -> None:
    assert list(lines(write_file(tmp_path / "a.txt", b"BZh1 is how bzip2 begins."))) == [b"BZh1 is how bzip2 begins."]


@pytest.mark.parametrize(
    ("data", "description"),
    [
        (b"\x89PNG\r\n\x1a\n....", "a PNG picture"),
        (b"Rar!\x1a\x07", "a RAR archive"),
        (b"abc\0def", "a binary file"),
    ],
)
def test_a_binary_file_is_refused(tmp_path: Path, data: bytes, description: str) -> None:
    with pytest.raises(DataError, match=f"expected text, got .*{description}"):
        read_text(SourceText(write_file(tmp_path / "a.txt", data)), hint="")


def test_a_byte_order_mark_is_removed(tmp_path: Path) -> None:
    assert list(lines(write_file(tmp_path / "a.txt", b"\xef\xbb\xbfone\ntwo"))) == [b"one", b"two"]


@settings(deadline=None)
@given(pieces=st.lists(st.binary(max_size=5).filter(lambda piece: b"\0" not in piece), max_size=8))
def test_lines_do_not_depend_on_the_chunks(pieces: list[bytes]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streams, "chunks", lambda file: iter(pieces))
        patch.setattr(streams, "detect_encoding", lambda head: "utf-8")
        patch.setattr(streams, "binary_type", lambda head: None)
        data = b"".join(pieces)
        if pieces and pieces[0].startswith(b"\xef"):
            return  # a split byte order mark cannot occur, since the first chunk of a file is large
        expected = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        assert list(lines(SourceFile("a", "a", 0))) == (expected if expected[-1] else expected[:-1])


def test_a_line_that_is_too_long_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "MAX_BYTES", 1000)
    monkeypatch.setattr(streams, "_CHUNK_BYTES", 100)
    file = write_file(tmp_path / "a.txt", b"x" * 1001)
    with pytest.raises(DataError, match="a line of more than"):
        list(lines(file))
    with pytest.raises(DataError, match="too large for one piece; cut it"):
        read_text(SourceText(file), hint="cut it")
    file = write_file(tmp_path / "b.txt", b"first\n" + b"x" * 1001 + b"\nlast")
    assert list(SourceText(file).lines(skip_long=True)) == [b"first", LONG_LINE, b"last"]


def test_folders_and_globs_give_files_sorted_by_name(tmp_path: Path) -> None:
    for name in ("b.txt", "a/z.txt", "a/c.md", ".hidden/x.txt", "a/.x.txt"):
        write_file(tmp_path / name, b"text")
    assert [file.name for file in find_files(str(tmp_path), where="t")] == ["a/c.md", "a/z.txt", "b.txt"]
    assert [file.name for file in find_files(f"{tmp_path}/a/*.txt", where="t")] == ["z.txt"]
    assert [file.name for file in find_files(f"{tmp_path}/**/*.txt", where="t")] == ["a/z.txt", "b.txt"]
    assert [file.name for file in find_files(str(tmp_path), exclude=["*.md", "a/z*"], where="t")] == ["b.txt"]
    assert [file.name for file in find_files(str(tmp_path / "b.txt"), where="t")] == ["b.txt"]


def test_missing_and_excluded_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no such file, and no file matches it as a glob"):
        find_files(str(tmp_path / "none*.txt"), where="curate")
    with pytest.raises(DataError, match="holds no files"):
        find_files(str(tmp_path / "empty"), where="curate")
    write_file(tmp_path / "a.txt", b"x")
    with pytest.raises(DataError, match="1 file found, and every file is excluded by"):
        find_files(str(tmp_path), exclude=["*"], where="curate")


def test_urls_are_read_like_folders() -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe({"/bucket/texts/b.txt.gz": gzip.compress(b"two\n"), "/bucket/texts/a/a.txt": b"one\n"})
    try:
        source_files = find_files("memory://bucket/texts", where="curate")
        assert [(file.name, file.suffix) for file in source_files] == [("a/a.txt", "txt"), ("b.txt.gz", "txt")]
        assert [list(lines(file)) for file in source_files] == [[b"one"], [b"two"]]
        assert [file.name for file in find_files("memory://bucket/texts/*.gz", where="curate")] == ["b.txt.gz"]
        assert [file.name for file in find_files("memory://bucket/texts/b.txt.gz", where="curate")] == ["b.txt.gz"]
        with pytest.raises(DataError, match="there is no such file"):
            find_files("memory://bucket/other", where="curate")
    finally:
        memory.rm("/bucket", recursive=True)


def test_a_protocol_whose_library_is_missing_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def raise_import_error(url: str) -> None:
        raise ImportError("Install s3fs")

    monkeypatch.setattr(fsspec.core, "url_to_fs", raise_import_error)
    with pytest.raises(MissingExtra, match=r"pip install 'vita-lm\[s3\]'"):
        find_files("s3://bucket/texts", where="curate")
    with pytest.raises(DataError, match="`ftp://` cannot be opened"):
        find_files("ftp://host/texts", where="curate")
