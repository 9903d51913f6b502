"""Spans of large files: their rows and ids are those of the whole file, in every format and compression."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.ipc
import pytest
import zstandard
from pyarrow import parquet

from tests.data.sources.document_files import page_record
from vita.data.records import DroppedRecord
from vita.data.sources import readers, spans, streams
from vita.data.sources.read import Source, SourceSlice, documents, split_source
from vita.spine.errors import DataError

LINES = [f"Line {number:04d} of the text, with äöü and some more words." for number in range(600)]
TEXT = "".join(line + ("\r\n" if number % 7 else "\n\n") for number, line in enumerate(LINES)).encode()
JSONL = b"".join(b'{"text": "Row %d, of a table"}\n' % number for number in range(1000))
CSV = b"text,number\n" + b"".join(
    b'"Row %d, ""quoted""\n\nin lines",%d\n%s' % (number, number, b"\n" * (number % 3)) for number in range(600)
)
JSON = json.dumps(
    [
        {"text": f'Row {n}, "quoted", [with] {{brackets}} \\ and ä\\"', "tags": [["a,", "b"], {"c": []}]}
        for n in range(300)
    ],
    ensure_ascii=False,
).encode()
WARC = b"".join(
    page_record(b"Text of the page %d. " % number * 5, type="text/plain", url=f"http://a.example/{number}")
    for number in range(100)
)


@pytest.fixture(autouse=True)
def small_spans(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "PART_BYTES", 2000)
    monkeypatch.setattr(spans, "MIN_PLAIN_BYTES", 1)
    monkeypatch.setattr(spans, "MIN_COMPRESSED_BYTES", 1)
    monkeypatch.setattr(streams, "_CHUNK_BYTES", 700)


def pair(source: Source) -> tuple[list[Any], list[Any], int]:
    """Return (documents and drops of the whole source, those of its slices in order, number of slices)."""
    slices = split_source(source, bytes_each=10**9)
    results = []
    for inputs in ([source], slices):
        drops: list[DroppedRecord] = []
        rows = [(row.id, row.text) for part in inputs for row in documents(part, dropped=drops.append)]
        results.append([*rows, *((drop.id, drop.reason) for drop in drops)])
    return results[0], results[1], len(slices)


@pytest.mark.parametrize("compress", [bytes, gzip.compress, zstandard.compress])
@pytest.mark.parametrize(
    ("name", "data", "settings"),
    [
        ("a.jsonl", JSONL, {}),
        ("a.jsonl", JSONL.replace(b"\n", b"\r\n"), {}),
        ("a.txt", TEXT, {"cut_at": "lines"}),
        ("a.txt", TEXT, {"cut_at": "blank_lines"}),
        ("a.txt", TEXT, {}),
        ("noname", JSONL, {}),
        ("a.warc", WARC, {}),
        ("a.csv", CSV, {}),
        ("a.csv", CSV.replace(b"\n", b"\r\n"), {}),
        ("a.csv", b"\n \n" + CSV.replace(b",", b";"), {}),
        ("a.csv", CSV.replace(b",", b"\t").replace(b'"', b""), {}),
        ("a.tsv", CSV.replace(b",", b"\t").replace(b'"', b""), {}),
        ("a.json", JSON, {}),
        ("a.json", b"\n " + JSON.replace(b"}, {", b"}\r\n ,\n\n{") + b"\n\n", {}),
        ("a.json", b"[" + b"1," * 900 + JSON[1:-1] + b', null, "a"]', {"on_bad_row": "drop"}),
    ],
)
def test_slices_have_the_rows_of_the_whole_file(
    tmp_path: Path, name: str, data: bytes, settings: dict[str, Any], compress: Callable[[bytes], bytes]
) -> None:
    (tmp_path / name).write_bytes(compress(data))
    whole, sliced, count = pair(Source.model_validate({"path": str(tmp_path / name), **settings}))
    assert sliced == whole and count > 5


def test_row_groups_of_parquet_are_spans(tmp_path: Path) -> None:
    table = pyarrow.table({"text": [f"Text {number} " * 20 for number in range(500)]})
    parquet.write_table(table, tmp_path / "a.parquet", row_group_size=20, compression="none", use_dictionary=False)
    whole, sliced, count = pair(Source.model_validate({"path": str(tmp_path / "a.parquet")}))
    assert sliced == whole and count > 5 and whole[-1][0] == "a.parquet:500"


@pytest.mark.parametrize(
    "data",
    [
        JSON[:-700],
        JSON[: JSON.rindex(b", {") + 1],
        JSON[:-1] + b",]",
        JSON[:20000].replace(b"}, {", b"} {", 80) + JSON[20000:],
        JSON + b"x",
    ],
)
def test_the_other_spans_of_a_damaged_array_are_read(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.json").write_bytes(data)
    _, sliced, count = pair(Source.model_validate({"path": str(tmp_path / "a.json"), "on_bad_row": "drop"}))
    assert count > 5 and "damaged_file" in [second for _, second in sliced]
    assert len(sliced) > 100 and all(text.startswith("Row") for _, text in sliced if text != "damaged_file")
    with pytest.raises(DataError, match=r"a\.json"):
        list(documents(Source.model_validate(str(tmp_path / "a.json"))))


def error_message(source: Source | SourceSlice) -> str | None:
    try:
        list(documents(source))
    except DataError as error:
        return str(error)
    return None


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda row: row.replace(b'"text": ', b'"text"; ', 1), "Expecting ':' delimiter"),
        (lambda row: row.replace(b"Row", b"R\xffw", 1), "the byte 0xff is not UTF-8"),
    ],
)
def test_the_place_of_damage_in_an_array_is_that_in_the_file(
    tmp_path: Path, damage: Callable[[bytes], bytes], problem: str
) -> None:
    begin = JSON.index(b'{"text": "Row 200,')
    data = JSON[:begin] + damage(JSON[begin:])
    position = next(n for n, (old, new) in enumerate(zip(JSON, data, strict=True)) if old != new)
    (tmp_path / "a.json").write_bytes(data)
    source = Source.model_validate({"path": str(tmp_path / "a.json")})
    whole = error_message(source)
    assert whole and f"a.json: is not JSON: {problem} (byte {position}, row 201)" in whole
    messages = [error_message(part) for part in split_source(source, bytes_each=10**9)]
    assert messages.count(None) > 5 and messages.count(whole) == 1 == len(messages) - messages.count(None)
    drops: list[DroppedRecord] = []
    lenient = Source.model_validate({"path": str(tmp_path / "a.json"), "on_bad_row": "drop"})
    for part in split_source(lenient, bytes_each=10**9):
        list(documents(part, dropped=drops.append))
    (drop,) = drops
    row = int(drop.id.rpartition(":")[2])
    assert (
        170 < row <= 201 and f"a problem after {row - 1} rows: is not JSON: {problem} (byte {position}" in drop.detail
    )


@pytest.mark.parametrize("write", [pyarrow.ipc.new_file, pyarrow.ipc.new_stream])
def test_record_batches_of_arrow_are_spans(tmp_path: Path, write: Callable[..., Any]) -> None:
    table = pyarrow.table({"text": [f"Text {number} " * 20 for number in range(500)]})
    with write(tmp_path / "a.arrow", table.schema) as writer:
        writer.write_table(table, max_chunksize=20)
    whole, sliced, count = pair(Source.model_validate({"path": str(tmp_path / "a.arrow")}))
    assert sliced == whole and count > 5 and whole[-1][0] == "a.arrow:500"


def test_the_rows_before_the_damage_of_a_large_file_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(JSONL, compresslevel=0)[:-3000])
    whole, sliced, count = pair(Source.model_validate({"path": str(tmp_path / "a.jsonl.gz"), "on_bad_row": "drop"}))
    assert sliced == whole and count > 5 and whole[-1][1] == "damaged_file"


@pytest.mark.parametrize("compress", [gzip.compress, zstandard.compress])
def test_spans_of_a_web_archive_with_damaged_members_have_the_rows_of_the_whole(
    tmp_path: Path, compress: Callable[[bytes], bytes]
) -> None:
    records = [b"WARC/" + record for record in WARC.split(b"WARC/") if record]
    members = [*map(compress, records)]
    for number in range(5, 99, 6):
        members[number] = members[number][:30] + b"\xff\xff" + members[number][32 + 40 * (number % 4 // 2) :]
    for number in range(8, 99, 6):
        members[number] = bytes(len(members[number]))
    (tmp_path / "a.warc.gz").write_bytes(b"".join(members))
    whole, sliced, count = pair(Source.model_validate({"path": str(tmp_path / "a.warc.gz"), "on_bad_row": "drop"}))
    assert sliced == whole and count > 5 and len(whole) == 100
    assert [second for _, second in whole].count("broken_record") == len(range(5, 99, 3))


@pytest.mark.parametrize("removed", [4, 30])
def test_spans_of_a_web_archive_with_wrong_lengths_have_the_rows_of_the_whole(tmp_path: Path, removed: int) -> None:
    records = [b"WARC/" + record for record in WARC.split(b"WARC/") if record]
    for number in range(3, 99, 2):
        records[number] = records[number][: -40 - removed] + records[number][-40:]
    (tmp_path / "a.warc").write_bytes(b"".join(records))
    whole, sliced, count = pair(Source.model_validate({"path": str(tmp_path / "a.warc"), "on_bad_row": "drop"}))
    assert sliced == whole and count > 5 and len(whole) == 100
    assert [second for _, second in whole].count("broken_record") == len(range(3, 99, 2))


@pytest.mark.parametrize(
    "data", [JSONL.replace(b"\n", b"\r"), b"\xef\xbb\xbf" + JSONL, JSONL.decode().encode("utf-16")]
)
def test_files_without_line_feeds_or_in_other_encodings_are_not_divided(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.jsonl").write_bytes(data)
    whole, sliced, count = pair(Source.model_validate({"path": str(tmp_path / "a.jsonl")}))
    assert sliced == whole and len(whole) == 1000 and count == 1


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.csv", CSV.replace(b"\n", b"\r")),
        ("a.tsv", CSV.replace(b",", b"\t")),
        ("a.csv", CSV.decode().encode("utf-16")),
    ],
)
def test_tables_whose_rows_have_no_certain_position_are_not_divided(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    whole, sliced, count = pair(Source.model_validate({"path": str(tmp_path / name)}))
    assert sliced == whole and len(whole) == 600 and count == 1


def test_the_rows_before_the_damage_of_a_large_table_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(CSV + b'"never closed,1\n' * 200)
    whole, sliced, count = pair(Source.model_validate({"path": str(tmp_path / "a.csv"), "on_bad_row": "drop"}))
    assert sliced == whole and count > 5 and whole[-1][1] == "damaged_file" and len(whole) == 601


def test_the_rows_before_the_damage_of_a_large_arrow_stream_are_read(tmp_path: Path) -> None:
    table = pyarrow.table({"text": [f"Text {number} " * 20 for number in range(500)]})
    with pyarrow.ipc.new_stream(tmp_path / "a.arrow", table.schema) as writer:
        writer.write_table(table, max_chunksize=20)
    data = (tmp_path / "a.arrow").read_bytes()
    (tmp_path / "a.arrow").write_bytes(data[: len(data) * 2 // 3])
    whole, sliced, _ = pair(Source.model_validate({"path": str(tmp_path / "a.arrow"), "on_bad_row": "drop"}))
    assert sliced == whole and 300 < len(whole) < 400 and whole[-1][1] == "damaged_file"
