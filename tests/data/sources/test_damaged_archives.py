"""Damaged archives: every record and member beside the damage is read, and the damage is named."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import random
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
import zstandard
from pyarrow import feather, parquet

from tests.data.sources.document_files import docx_file, page_record, tar_file, zip_file
from vita.data.records import DroppedRecord
from vita.data.sources.read import Source, documents

_WORDS = ["river", "water", "spring", "lake", "sea", "delta", "harbour", "ship", "engineer", "year", "sand", "slow"]


def record(number: int, size: int = 400) -> bytes:
    """Return a WARC record with a page of plain text that compresses badly."""
    words = random.Random(number).choices(_WORDS, k=size)
    return page_record(" ".join(words).encode(), type="text/plain", url=f"http://a.example/{number}")


def arc_record(number: int) -> bytes:
    """Return a record of an ARC file with a page of plain text."""
    content = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\nText of the page %d." % number
    return b"http://a.example/%d 127.0.0.1 20240506070809 text/plain %d\n%s\n" % (number, len(content), content)


def numbers_and_drops(path: Path, data: bytes) -> tuple[str, list[DroppedRecord]]:
    path.write_bytes(data)
    drops: list[DroppedRecord] = []
    source = Source.model_validate({"path": str(path), "on_bad_row": "drop"})
    results = documents(source, dropped=drops.append)
    return "".join(document.metadata["url"].rpartition("/")[2] for document in results), drops


def flip(data: bytes, position: int) -> bytes:
    """Return `data` with another byte at a position."""
    return data[:position] + bytes([data[position] ^ 0xFF]) + data[position + 1 :]


@pytest.mark.parametrize(
    "compress", [gzip.compress, zstandard.ZstdCompressor(write_checksum=True).compress, bz2.compress, lzma.compress]
)
@pytest.mark.parametrize("size", [400, 40_000])
def test_reading_continues_at_the_member_after_a_damaged_one(
    tmp_path: Path, compress: Callable[[bytes], bytes], size: int
) -> None:
    members = [compress(record(number, size)) for number in range(5)]
    starts = [sum(map(len, members[:number])) for number in range(5)]
    damaged = members[2]
    for broken in (flip(damaged, 1), flip(damaged, len(damaged) // 2), flip(damaged, -5 + len(damaged)), damaged[:-90]):
        results, drops = numbers_and_drops(tmp_path / "a.warc.gz", b"".join([*members[:2], broken, *members[3:]]))
        assert results == "0134" and [drop.reason for drop in drops] == ["broken_record"]
        following = starts[2] + len(broken)
        assert f"member at byte {starts[2]:,} of the file (" in drops[0].detail
        assert f"reading continues at byte {following:,}" in drops[0].detail and drops[0].id == "a.warc.gz:3"


def test_zeros_between_members_are_damage_and_at_the_end_are_not(tmp_path: Path) -> None:
    members = [gzip.compress(record(number)) for number in range(6)]
    starts = [sum(map(len, members[:number])) for number in range(7)]
    zeros = [bytes(len(member)) for member in members]
    whole = b"".join(members)
    for size in (0, 100, 100_000):
        assert numbers_and_drops(tmp_path / "a.warc.gz", whole + bytes(size)) == ("012345", [])
    begin = bytes(50) + members[2][50:]
    for broken, results, stop in (
        ([*members[:2], zeros[2], *members[3:]], "01345", starts[3]),
        ([*members[:2], zeros[2], zeros[3], *members[4:]], "0145", starts[4]),
        ([*members[:2], begin, *members[3:]], "01345", starts[3]),
    ):
        numbers, (drop,) = numbers_and_drops(tmp_path / "a.warc.gz", b"".join(broken))
        assert (numbers, drop.reason, drop.id) == (results, "broken_record", "a.warc.gz:3")
        assert f"member at byte {starts[2]:,} of the file (" in drop.detail and "bytes of it are zero" in drop.detail
        assert f"reading continues at byte {stop:,}" in drop.detail
    large = [*members[:2], bytes(17 * 2**20), *members[2:]]
    numbers, (drop,) = numbers_and_drops(tmp_path / "a.warc.gz", b"".join(large))
    assert (numbers, drop.reason) == ("012345", "broken_record")
    numbers, (drop,) = numbers_and_drops(tmp_path / "a.warc.gz", whole + bytes(90) + begin[60:])
    assert (numbers, drop.reason) == ("012345", "damaged_file")


def test_several_damaged_members_are_counted_and_a_damaged_last_one_ends_the_file(tmp_path: Path) -> None:
    members = [gzip.compress(record(number)) for number in range(8)]
    for number in (1, 2, 5, 7):
        members[number] = flip(members[number], 60)
    results, drops = numbers_and_drops(tmp_path / "a.warc.gz", b"".join(members))
    assert results == "0346"
    assert [drop.reason for drop in drops] == ["broken_record", "broken_record", "damaged_file"]
    assert f"reading continues at byte {sum(map(len, members[:3])):,}" in drops[0].detail  # two members
    assert f"in the damaged gzip member at byte {sum(map(len, members[:7])):,} of the file" in drops[-1].detail


def test_a_page_compressed_inside_a_record_is_not_taken_for_the_next_member(tmp_path: Path) -> None:
    stored = gzip.compress(page_record(gzip.compress(b"<html>inner"), type="text/plain"), compresslevel=0)
    data = gzip.compress(record(0)) + flip(stored, 12) + gzip.compress(record(2))
    results, drops = numbers_and_drops(tmp_path / "a.warc.gz", data)
    assert results == "02" and [drop.reason for drop in drops] == ["broken_record"]


def test_reading_continues_in_an_arc_file(tmp_path: Path) -> None:
    records = [arc_record(number) for number in range(4)]
    wrong = records[1].replace(b"text/plain ", b"text/plain 9", 1)
    for broken in (b"no record\n", wrong, records[1].replace(b"text/plain 6", b"text/plain ", 1)):
        results, drops = numbers_and_drops(tmp_path / "a.arc", b"".join([records[0], broken, *records[2:]]))
        assert results == "023" and [drop.reason for drop in drops] == ["broken_record"]
    members = [*map(gzip.compress, records)]
    results, drops = numbers_and_drops(
        tmp_path / "a.arc.gz", b"".join([members[0], flip(members[1], 40), *members[2:]])
    )
    assert results == "023" and [drop.reason for drop in drops] == ["broken_record"]


@pytest.mark.parametrize("digits", [b"9", b"99999999"])
def test_records_within_the_wrong_length_of_another_one_are_read(tmp_path: Path, digits: bytes) -> None:
    records = [record(number) for number in range(5)]
    records[1] = records[1].replace(b"Content-Length: ", b"Content-Length: " + digits)
    results, drops = numbers_and_drops(tmp_path / "a.warc", b"".join(records))
    assert results == "0234" and [drop.reason for drop in drops] == ["broken_record"]
    assert "has a wrong length" in drops[0].detail and f"byte {len(records[0]):,}" in drops[0].detail


def test_an_archive_inside_a_record_is_content(tmp_path: Path) -> None:
    inner = b"".join(record(number) for number in range(3))
    results, drops = numbers_and_drops(tmp_path / "a.warc", page_record(inner, type="text/plain") + record(4))
    assert results == "4" and drops == []


def texts_and_drops(path: Path, data: bytes) -> tuple[list[str], list[DroppedRecord]]:
    path.write_bytes(data)
    drops: list[DroppedRecord] = []
    source = Source.model_validate({"path": str(path), "on_bad_row": "drop"})
    return [document.text for document in documents(source, dropped=drops.append)], drops


def test_members_after_a_damaged_header_of_a_tar_archive_are_read(tmp_path: Path) -> None:
    members = [(f"{number}.txt", f"Member {number}.".encode() * 90) for number in range(4)]
    data = tar_file(*members)
    starts = [1536 * number for number in range(4)]  # a header and two blocks of text
    texts = [content.decode() for _, content in members]
    for first, last, content in (
        (starts[1], starts[1] + 512, b"\0"),
        (starts[1], starts[1] + 512, b"X"),
        (starts[1], starts[2], b"\0"),
        (starts[1] + 200, starts[1] + 201, b"Y"),
    ):
        damaged = data[:first] + content * (last - first) + data[last:]
        results, drops = texts_and_drops(tmp_path / "a.tar", damaged)
        assert results == [texts[0], *texts[2:]] and [drop.reason for drop in drops] == ["damaged_file"]
        assert "3 blocks of 512 bytes without the header of a member" in drops[0].detail
    results, drops = texts_and_drops(tmp_path / "a.tar", data[: starts[3] + 100])
    assert results == texts[:3] and "1 block of 512 bytes without the header of a member at its end" in drops[0].detail
    end = data[: starts[3] + 1536]
    for doubtful, detail in ((end, "0 blocks"), (end + bytes(512), "1 block"), (data + bytes(10240), "28 blocks")):
        results, (drop,) = texts_and_drops(tmp_path / "a.tar", doubtful)
        assert results == texts and drop.reason == "damaged_file" and f"{detail}: members may be missing" in drop.detail
    for whole in (data, data + data, end + bytes(1024) + data, end + bytes(1024) + b"X" * 2048):
        results, drops = texts_and_drops(tmp_path / "a.tar", whole)
        assert results[:4] == texts and not drops
        assert len(results) == (8 if whole.endswith(data) and whole != data else 4)


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_members_after_a_damaged_header_with_a_long_name_are_read(tmp_path: Path, form: int) -> None:
    target = io.BytesIO()
    starts = []
    with tarfile.open(fileobj=target, mode="w", format=form) as archive:
        for number in range(4):
            starts.append(archive.offset)
            info = tarfile.TarInfo(f"{number}{'x' * 200}.txt")
            info.size = 600
            archive.addfile(info, io.BytesIO(f"{number}".encode() * 600))
    data = target.getvalue()
    blocks = range(starts[1], starts[2] - 1024, 512)  # of both headers
    assert len(blocks) == 3
    for block in blocks:
        for damage in (b"X" * 20, bytes(512)):
            damaged = data[:block] + damage + data[block + len(damage) :]
            results, drops = texts_and_drops(tmp_path / "a.tar", damaged)
            assert {"0" * 600, "2" * 600, "3" * 600} <= {*results}
            assert len(results) == 4 or [drop.reason for drop in drops] == ["damaged_file"]
        results, drops = texts_and_drops(tmp_path / "a.tar", data[:block] + data[block : block + 100])
        assert results == ["0" * 600] and [drop.reason for drop in drops] == ["damaged_file"]


class _Stream(io.BytesIO):
    """A target without positions, to which sizes are written after the content."""

    def seekable(self) -> bool:
        return False

    def seek(self, offset: int, whence: int = 0, /) -> int:
        raise OSError

    def tell(self) -> int:
        raise OSError


MEMBERS = [(f"{number}.txt", random.Random(number).randbytes(500 + number).hex()) for number in range(4)]
BOOK = docx_file("A river carries water from its spring to the sea.")


@pytest.mark.parametrize("target", [io.BytesIO, _Stream])
@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2])
@pytest.mark.parametrize("is_large", [False, True])
def test_members_of_a_zip_archive_without_its_directory_are_read(
    tmp_path: Path, target: type[io.BytesIO], method: int, is_large: bool
) -> None:
    handle = target()
    with zipfile.ZipFile(handle, "w", method) as archive:
        for name, content in [*MEMBERS, ("book.docx", BOOK.decode("latin-1"))]:
            with archive.open(zipfile.ZipInfo(name), "w", force_zip64=is_large) as member:
                member.write(content.encode("latin-1"))
        starts, directory = [info.header_offset for info in archive.infolist()], archive.start_dir
    data, texts = handle.getvalue(), [content for _, content in MEMBERS]
    for cut in (data[:-30], data[:-1], data[:directory], data[: starts[4]], data[: starts[3]], data[: starts[1] + 80]):
        results, drops = texts_and_drops(tmp_path / "a.zip", cut)
        expected = texts if len(cut) >= starts[4] else texts[:3] if len(cut) == starts[3] else texts[:1]
        assert results[: len(expected)] == expected and len(results) - len(expected) == (len(cut) > starts[4])
        assert drops[0].id == "a.zip" and {drop.reason for drop in drops} == {"damaged_file"}
    for broken in (
        data[: starts[4] + 40] + data[directory:],  # bytes of the last member are missing
        data[: starts[2] + 60] + data[starts[2] + 80 :],
    ):
        results, drops = texts_and_drops(tmp_path / "a.zip", broken)
        assert {*texts[:2], texts[3]} <= {*results} and {drop.reason for drop in drops} == {"damaged_file"}


def test_a_damaged_directory_of_a_zip_archive_is_not_used(tmp_path: Path) -> None:
    data = zip_file([(name, content.encode()) for name, content in MEMBERS])
    directory, texts = data.index(b"PK\x01\x02"), [content for _, content in MEMBERS]
    for position, value in ((directory + 32, 60), (directory + 44, 1), (len(data) - 6, 1), (len(data) - 10, 1)):
        results, drops = texts_and_drops(tmp_path / "a.zip", data[:position] + bytes([value]) + data[position + 1 :])
        assert results == texts and [(drop.id, drop.reason) for drop in drops] == [("a.zip", "damaged_file")]
    results, drops = texts_and_drops(tmp_path / "a.zip", data[:300] + bytes([data[300] ^ 1]) + data[301:])
    assert results == texts[1:] and [drop.id for drop in drops] == ["a.zip:1"]
    for book in (BOOK[:-30], BOOK[:200]):
        assert [drop.reason for drop in texts_and_drops(tmp_path / "a.docx", book)[1]] == ["damaged_file"]


def test_links_in_zip_archives_are_not_read(tmp_path: Path) -> None:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        link = zipfile.ZipInfo("link.txt")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
        archive.writestr("a.txt", "A text.")
    results, (drop,) = texts_and_drops(tmp_path / "a.zip", target.getvalue())
    assert results == ["A text."] and drop.reason == "not_a_file" and "the member link.txt, a link" in drop.detail


def test_rows_of_a_table_beside_one_that_is_not_utf8_are_read(tmp_path: Path) -> None:
    for name, write in (("a.parquet", parquet.write_table), ("a.arrow", feather.write_feather)):
        values = pa.array([b"one", b"t\xffo", b"three"], pa.binary()).view(pa.string())
        write(pa.table({"text": values}), tmp_path / name)
        results, (drop,) = texts_and_drops(tmp_path / name, (tmp_path / name).read_bytes())
        assert results == ["one", "three"] and (drop.id, drop.reason) == (f"{name}:2", "not_utf8")


def test_members_with_a_damaged_header_or_an_unknown_compression_in_a_zip_archive_are_named(tmp_path: Path) -> None:
    data = bytearray(zip_file([("a.txt", b"first" * 100), ("b.txt", b"second" * 100)]))
    for change in (data[:4], data[4:10]):
        broken = bytearray(data)
        if change == data[:4]:
            broken[:4] = bytes(4)
        else:
            broken[data.index(b"PK\x01\x02") + 10] = broken[8] = 93  # zstd
        results, drops = texts_and_drops(tmp_path / "a.zip", bytes(broken))
        assert results == ["second" * 100]
        assert [drop.reason for drop in drops] == ["damaged_file"] and "a.txt" in drops[0].detail


@pytest.mark.parametrize(("name", "pack"), [("a.zip", lambda *members: zip_file(members)), ("a.tar", tar_file)])
def test_large_members_of_formats_with_random_access_are_read(
    tmp_path: Path, name: str, pack: Callable[..., bytes]
) -> None:
    table = io.BytesIO()
    noise = [random.Random(number).randbytes(700).hex() for number in range(1000)]
    parquet.write_table(pa.table({"text": noise}), table, compression="none")
    book = docx_file("A river carries water from its spring to the sea.")
    padded = io.BytesIO(book)
    with zipfile.ZipFile(padded, "a") as archive:
        archive.writestr("word/media/a.png", random.Random(1).randbytes(1_100_000))
    assert min(len(table.getvalue()), len(padded.getvalue())) > 2**20
    results, drops = texts_and_drops(
        tmp_path / name, pack(("a.parquet", table.getvalue()), ("b.docx", padded.getvalue()))
    )
    assert results[:-1] == noise and results[-1].startswith("A river carries water") and not drops


def test_rows_before_the_damage_of_a_member_are_read(tmp_path: Path) -> None:
    rows = [f'{{"text": "Row {number}: {random.Random(number).randbytes(40).hex()}"}}\n' for number in range(4000)]
    member = "".join(rows).encode()
    data = tar_file(("a.jsonl", member))
    for name, content in (("a.tar", data[:300_000]), ("a.tar.gz", gzip.compress(data)[:150_000])):
        results, drops = texts_and_drops(tmp_path / name, content)
        assert results[:1500] == [json.loads(row)["text"] for row in rows[:1500]]
        assert {drop.reason for drop in drops} == {"damaged_file"}
    archive = bytearray(zip_file([("a.jsonl", member)]))
    archive[150_000:150_100] = bytes(100)
    results, drops = texts_and_drops(tmp_path / "a.zip", bytes(archive))
    assert len(results) > 1000 and drops[-1].reason == "damaged_file"
