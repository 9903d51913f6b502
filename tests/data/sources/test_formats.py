"""Readers of web pages, web archives, documents, tables and archives, with whole and damaged files."""

from __future__ import annotations

import gzip
import io
import re
import tarfile
import zlib
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
import zstandard

from tests.data.sources.document_files import (
    PAGE,
    SENTENCE,
    docx_file,
    epub_file,
    http_response,
    page_record,
    pdf_file,
    warc_record,
    zip_file,
)
from vita.data.extraction import extractor
from vita.data.extraction.limits import ExtractionSettings
from vita.data.records import Document, DroppedRecord
from vita.data.sources import archives, readers, table_readers
from vita.data.sources.files import SourceFile
from vita.data.sources.read import Source, documents
from vita.data.sources.web_archives import ArchiveRecord, parse_http, warc_records
from vita.spine.errors import DataError, MissingExtra

WARCS = Path("/work/shared/data/web/warc")
if not WARCS.exists():
    WARCS = Path(__file__).parents[4] / "shared" / "data" / "web" / "warc"
needs_warcs = pytest.mark.skipif(not WARCS.exists(), reason=f"the web archives in {WARCS} are not installed")


def read(path: Path, data: bytes | None = None, **settings: Any) -> tuple[list[Document], list[DroppedRecord]]:
    """Return (documents, drops) of a file; bad rows are dropped unless the settings say otherwise."""
    if data is not None:
        path.write_bytes(data)
    drops: list[DroppedRecord] = []
    source = Source.model_validate({"path": str(path), "on_bad_row": "drop", **settings})
    return list(documents(source, dropped=drops.append)), drops


def texts(path: Path, data: bytes | None = None, **settings: Any) -> list[str]:
    return [document.text for document in read(path, data, **settings)[0]]


# -- formats by content


@pytest.mark.parametrize("name", ["page.html", "page.txt", "page", "page.gz"])
def test_a_web_page_is_extracted_under_every_name(tmp_path: Path, name: str) -> None:
    (document,), _ = read(tmp_path / name, PAGE.encode())
    assert SENTENCE in document.text and "About us" not in document.text and "Imprint" not in document.text
    assert document.metadata["title"] == "Rivers & lakes"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b'{"text": "one"}\n{"text": "two"}\n', ["one", "two"]),
        (b'[{"text": "one"}, {"text": "two"}]', ["one", "two"]),
        (pdf_file("one", "two"), ["one\n\ntwo"]),
        (docx_file("one", "two"), ["one\n\ntwo\n\nleft\tright"]),
        (epub_file("one", "two"), ["one\n\ntwo"]),
        (zip_file([("a.txt", b"one"), ("b.jsonl", b'{"text": "two"}')]), ["one", "two"]),
        (b"one\ntwo\n", ["one\ntwo\n"]),
    ],
)
@pytest.mark.parametrize("compress", [bytes, gzip.compress, zstandard.compress])
def test_files_without_a_suffix_are_read_by_content(tmp_path: Path, data: bytes, expected: list[str], compress: Any):
    assert texts(tmp_path / "file", compress(data)) == expected


@pytest.mark.parametrize(
    "name", ["a.json", "a.json.gz", "a.jsonl", "a.txt", "a.text.gz", "a.csv", "a.html", "a.parquet"]
)
def test_rows_of_json_are_found_under_every_name(tmp_path: Path, name: str) -> None:
    lines = b'{"text": "one", "url": "u"}\n\n{"text": "two"}\r\n{"text": "three"}'
    array = b' [\n{"text": "one"},\n{"text": "two"}, {"text": "three"}]\n'
    long = b'{"text": "one"}\n{"text": "two"}\n{"text": "' + b"x" * 100_000 + b'"}\n'
    for data in (lines, array, b"\xef\xbb\xbf" + lines, array.replace(b"\n", b"").strip(), long):
        data = gzip.compress(data) if name.endswith(".gz") else data
        results = texts(tmp_path / name, data)
        assert results[:2] == ["one", "two"] and len(results) == 3
    for codec in ("utf-16", "utf-16-le", "utf-32"):
        results = texts(tmp_path / name, lines.replace(b"one", "größer 河".encode()).decode().encode(codec))
        assert results == ["größer 河", "two", "three"]
        assert len(texts(tmp_path / name, array.decode().encode(codec))) == 3
    named = lines.replace(b'"text"', b'"story"')
    assert len(texts(tmp_path / name, gzip.compress(named) if ".gz" in name else named, text_field="story")) == 3


@pytest.mark.parametrize(
    "text",
    [
        '{"text": "one"}',
        '{"text": "one"}\nIs the first line.\n',
        '{"a": 1}\n{"a": 2}\n',
        '{"text": 1}\n{"text": 2}\n',
        "{curly}\n{text}\n",
        "[1] A note.\n[2] Another.\n",
        '[{"a": 1}]\n',
        '[{"text": "one"} is an array.\n',
    ],
)
def test_text_that_begins_like_json_stays_text(tmp_path: Path, text: str) -> None:
    assert texts(tmp_path / "a.txt", text.encode()) == [text]


def test_a_json_file_with_one_object_is_a_document(tmp_path: Path) -> None:
    rows = {"one.json": b'{"text": "one", "page": {"n": 1}}', "two.json": b'{\n "text": "two",\n "page": {"n": 2}\n}\n'}
    for name, data in rows.items():
        (tmp_path / name).write_bytes(data)
    results, _ = read(tmp_path)
    assert [(document.id, document.text, document.metadata) for document in results] == [
        ("one.json:1", "one", {"page": {"n": 1}}),
        ("two.json:1", "two", {"page": {"n": 2}}),
    ]
    damaged = b'{"text": "o\n{"text": "two"}\n'
    assert texts(tmp_path / "one.json", damaged, on_bad_row="drop") == ["two"]


def test_chapters_of_a_book_are_found_by_their_references(tmp_path: Path) -> None:
    hrefs = {0: "c%200.xhtml", 1: "c%201.xhtml#part", 2: "c 2.xhtml", 3: "c%20missing.xhtml"}
    book = epub_file("zero", "one", "two", "three", "four", hrefs=hrefs)
    (document,), (drop,) = read(tmp_path / "a.epub", book, on_bad_row="error")
    assert document.text == "zero\n\none\n\ntwo\n\nfour"
    assert document.metadata == {"title": "A book", "missing_parts": ["OEBPS/c missing.xhtml"]}
    assert (drop.id, drop.reason) == ("a.epub:1", "missing_part") and "OEBPS/c missing.xhtml" in drop.detail
    _, (drop,) = read(tmp_path / "a.epub", epub_file("zero", hrefs={0: "gone.xhtml"}))
    assert drop.reason == "not_extractable" and "has no readable part OEBPS/gone.xhtml" in drop.detail


def test_notes_of_a_word_document_are_read_and_other_parts_are_named(tmp_path: Path) -> None:
    data = docx_file("one", "two", notes=True)
    (document,), (drop,) = read(tmp_path / "a.docx", data, on_bad_row="error")
    body = "one\n\ntwo\n\nSet new.\nBox text.\n\n\nleft\tright inner\tcell"
    assert document.text == f"{body}\n\nFirst note.\n\nSecond note.\n\nAn endnote."
    unread = ["1 header", "1 part with comments", "1 embedded file"]
    assert document.metadata == {"unread_parts": unread}
    assert (drop.id, drop.reason) == ("a.docx/unread_parts", "unread_part") and ", ".join(unread) in drop.detail


def test_an_error_page_saved_as_rows_is_no_document(tmp_path: Path) -> None:
    results, drops = read(tmp_path / "rows.jsonl", PAGE.replace("\n", " ").encode())
    assert not results and [drop.reason for drop in drops] == ["not_json"]


def test_the_format_can_be_named(tmp_path: Path) -> None:
    assert texts(tmp_path / "words.log", b"plain words", format="text") == ["plain words"]
    with pytest.raises(DataError, match=r"expected files of these formats.*got 'words\.log'.*set `format`"):
        read(tmp_path / "words.log")


def test_tables_are_documents_if_a_column_is_named(tmp_path: Path) -> None:
    table = b'text,year\n"one, quoted",1999\nshort\ntwo,2000\n'
    results, drops = read(tmp_path / "a.csv", table)
    assert [(document.text, document.metadata) for document in results] == [
        ("one, quoted", {"year": "1999"}),
        ("two", {"year": "2000"}),
    ]
    assert [(drop.id, drop.reason) for drop in drops] == [("a.csv:2", "misfit")]
    assert texts(tmp_path / "a.tsv", b"words\tyear\none\t1\n", text_field="words") == ["one"]


@pytest.mark.parametrize(
    ("name", "table", "expected"),
    [
        ("pandas.tsv", 'id\ttext\n1\t"She said ""hi""\n\nand\tleft"\n2\tB', ['She said "hi"\n\nand\tleft', "B"]),
        ("plain.tsv", 'id\ttext\n1\t"open\n2\t"A" and "B"\n3\t12"\n4\t""', ['"open', '"A" and "B"', '12"', ""]),
        ("pairs.tsv", 'id\ttext\n1\t"open\n2\tclosed"\n3\tC', ['"open', 'closed"', "C"]),
        ("header.tsv", '\n"id"\t"text"\n"1"\t"A\r\nB"\n', ["A\nB"]),
        ("excel.csv", 'id;text\n1;"A; ""B"", C"\n2;1,5\n', ['A; "B", C', "1,5"]),
        ("tabs.csv", 'id\ttext\n1\t"A, B"\n2\tC "D\n', ["A, B", 'C "D']),
        ("bars.csv", 'id|text\n1|"A, B|C"\n', ["A, B|C"]),
        ("quoted.csv", 'id,"text",";|;"\n1,A,\n', ["A"]),
        ("single.csv", 'text\n"A; B"\n', ["A; B"]),
    ],
)  # fmt: skip
def test_tables_have_their_delimiter_and_quotes(tmp_path: Path, name: str, table: str, expected: list[str]) -> None:
    assert texts(tmp_path / name, table.encode(), on_bad_row="error") == expected


def test_the_delimiter_of_a_table_is_in_the_message(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"row 1: expected 2 fields, .* separated by semicolons, got 3 fields"):
        read(tmp_path / "a.csv", b"id;text\n1;2;3\n", on_bad_row="error")
    with pytest.raises(DataError, match="row 1 is not a row of a table with commas"):
        read(tmp_path / "b.csv", b'id,text\n1,"A" B\n', on_bad_row="error")


def test_the_end_of_a_quoted_field_is_searched_within_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_readers, "_MAX_QUOTED_CHARACTERS", 3)
    assert texts(tmp_path / "a.tsv", b'text\n"one\ntwo\nthree"\n') == ['"one', "two", 'three"']


def test_arrow_files_and_streams_are_read(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import ipc

    table = pyarrow.table({"text": [f"text {number}" for number in range(1200)]})
    for name, create in (("file.arrow", ipc.new_file), ("stream.arrow", ipc.new_stream)):
        with create(tmp_path / name, table.schema) as writer:
            writer.write_table(table)
        assert texts(tmp_path / name) == table["text"].to_pylist()
    data = (tmp_path / "file.arrow").read_bytes()
    assert [drop.reason for drop in read(tmp_path / "cut.arrow", data[: len(data) // 2])[1]] == ["damaged_file"]


@pytest.mark.parametrize("kind", ["binary", "large_binary", "binary_view"])
def test_columns_of_bytes_are_text_in_utf_8(tmp_path: Path, kind: str) -> None:
    import pyarrow
    from pyarrow import parquet

    rows = {
        "text": ["Größe".encode(), b"\xff\xfe", b"form\0feed", None],
        "url": [b"http://a.example", b"\x89PNG", b"", None],
    }
    binary = pyarrow.table({name: pyarrow.array(values, getattr(pyarrow, kind)()) for name, values in rows.items()})
    table = binary.append_column("tags", pyarrow.array([[{"name": b"a"}]] * 4))
    parquet.write_table(table, tmp_path / "a.parquet")
    results, drops = read(tmp_path / "a.parquet")
    assert [document.text for document in results] == ["Größe", "form\0feed"]
    assert results[0].metadata == {"url": "http://a.example", "tags": [{"name": "a"}]}
    assert [(drop.id, drop.reason) for drop in drops] == [("a.parquet:2", "not_utf8"), ("a.parquet:4", "no_text")]
    with pytest.raises(
        DataError, match=r"row 2: expected text in UTF-8 in the field `text`, got the byte 0xff.*convert"
    ):
        read(tmp_path / "a.parquet", on_bad_row="error")


def test_messages_of_a_mailbox_are_documents(tmp_path: Path) -> None:
    mail = (
        b"From a@b.example Mon Jan  1 00:00:00 2024\r\nMessage-ID: <1@b.example>\r\n"
        b"Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\n"
        b"Content-Type: text/plain; charset=iso-8859-1\r\n\r\nGr\xfc\xdfe aus K\xf6ln.\r\n>From here on.\r\n\r\n"
        b"From c@d.example Mon Jan  1 00:00:00 2024\r\nSubject: page\r\nContent-Type: text/html\r\n\r\n"
        b"<p>A page.</p>\r\n\r\n"
    )
    results, _ = read(tmp_path / "a.mbox", mail)
    assert [(document.id, document.text.strip()) for document in results] == [
        ("1@b.example", "Grüße aus Köln.\nFrom here on."), ("a.mbox:2", "A page."),
    ]  # fmt: skip
    assert results[0].metadata["title"] == "Grüße"


def test_a_file_with_a_message_is_a_document(tmp_path: Path) -> None:
    results, _ = read(tmp_path / "a.eml", b"From: a@b.example\r\nSubject: page\r\n\r\nA text.\r\nFrom here on.\r\n")
    assert [(document.id, document.text) for document in results] == [("a.eml", "A text.\nFrom here on.")]


def test_attachments_of_messages_are_counted(tmp_path: Path) -> None:
    message = EmailMessage()
    message.set_content("The text.\n")
    for name in ("a.txt", "b.txt"):
        message.add_attachment("An attached text.", filename=name)
    for name, data in (("a.eml", message.as_bytes()), ("a.mbox", b"From a@b.example\n" + message.as_bytes())):
        (document,), (drop,) = read(tmp_path / name, data, on_bad_row="error")
        assert document.text.strip() == "The text." and document.metadata["unread_parts"] == ["2 attachments"]
        assert drop.reason == "unread_part" and "2 attachments" in drop.detail and drop.id != document.id


# -- encodings

RUSSIAN = "Река несёт воду от истока к морю, а озеро на время собирает её.\n" * 3


@pytest.mark.parametrize("codec", ["koi8-r", "cp1251", "utf-16", "utf-32", "utf-8-sig"])
def test_encodings_are_detected(tmp_path: Path, codec: str) -> None:
    assert texts(tmp_path / "a.txt", RUSSIAN.encode(codec)) == [RUSSIAN]
    assert texts(tmp_path / "b.txt", RUSSIAN.encode(codec), cut_at="lines") == RUSSIAN.splitlines()


def test_a_named_encoding_is_used_and_wrong_bytes_are_damage(tmp_path: Path) -> None:
    assert texts(tmp_path / "a.txt", "größer\n".encode("latin-1"), encoding="latin-1") == ["größer\n"]
    assert texts(tmp_path / "a.csv", "text\ngrößer\n".encode("cp1252"), encoding="windows-1252") == ["größer"]
    _, drops = read(tmp_path / "b.txt", b"\x81\x8d", encoding="windows-1252")
    assert drops[0].reason == "damaged_file" and "is not cp1252" in drops[0].detail


def test_few_damaged_bytes_in_utf_8_are_no_other_encoding(tmp_path: Path) -> None:
    _, drops = read(tmp_path / "a.txt", (RUSSIAN.encode() + b"\xe4\xf6"))
    assert [drop.reason for drop in drops] == ["not_utf8"]


def test_the_encoding_of_a_page_is_that_of_its_bytes(tmp_path: Path) -> None:
    page = PAGE.replace("A river", "Ein Fluß, größer als der Bach,").replace("utf-8", "iso-8859-1")
    assert "Ein Fluß, größer" in texts(tmp_path / "legacy.html", page.encode("latin-1"))[0]
    assert "Ein Fluß, größer" in texts(tmp_path / "wrong.html", page.encode("utf-8"))[0], "valid UTF-8 wins"


# -- web archives


def test_a_list_that_other_extractors_leave_out_is_not_in_the_text_of_a_page(tmp_path: Path) -> None:
    sentence = (
        "The committee met on Tuesday and discussed the new library, which opens in spring with forty thousand books. "
    )
    article = f"<p>{3 * sentence}</p>" * 3
    names = "".join(f"<li>Name {number} of a country with a long name</li>" for number in range(100))
    page = f"<html><body><div>{article}</div><div><ul>{names}</ul></div></body></html>"
    (text,) = texts(tmp_path / "list.html", page.encode())
    assert text.count("The committee") == 9 and "Name 7" not in text


def test_pages_of_a_web_archive_are_documents(tmp_path: Path) -> None:
    page = PAGE.encode()
    chunked = b"5\r\n" + page[:5] + b"\r\n" + f"{len(page) - 5:x}".encode() + b"\r\n" + page[5:] + b"\r\n0\r\n\r\n"
    archive = [
        warc_record(b"software: test", type="warcinfo"),
        page_record(page, url="http://a.example/1"),
        page_record(chunked, "Transfer-Encoding: chunked", url="http://a.example/2"),
        page_record(gzip.compress(page), "Content-Encoding: gzip", url="http://a.example/3"),
        page_record(b"GIF89a", type="image/gif", url="http://a.example/4"),
        page_record(b"gone", status="404 Not Found", url="http://a.example/5"),
        page_record("Größe".encode("latin-1"), type="text/plain; charset=iso-8859-1", url="http://a.example/6"),
        warc_record(b"Extracted text.", type="conversion", url="http://a.example/7", Content_Type="text/plain"),
    ]
    for name, data in (("a.warc", b"".join(archive)), ("a.warc.gz", b"".join(map(gzip.compress, archive)))):
        results, drops = read(tmp_path / name, data, on_bad_row="error")
        assert [document.metadata["url"][-1] for document in results] == ["1", "2", "3", "6", "7"]
        assert len({document.text for document in results[:3]}) == 1 and SENTENCE in results[0].text
        assert [document.text for document in results[3:]] == ["Größe", "Extracted text."]
        assert results[0].metadata["date"] == "2024-05-06T07:08:09Z"
        assert [(drop.id, drop.reason) for drop in drops] == [
            (f"{name}:5", "content_type"),
            (f"{name}:6", "http_status"),
        ]


def test_broken_records_are_named_and_the_next_record_is_read(tmp_path: Path) -> None:
    pages = [page_record(PAGE.encode(), url=f"http://a.example/{number}") for number in range(4)]
    wrong = pages[1].replace(b"Content-Length: ", b"Content-Length: 9")
    short = re.sub(rb"Content-Length: \d", b"Content-Length: ", pages[1])
    unnumbered = pages[1].replace(b"Content-Length: ", b"Content-Length: many")
    for broken in (short, unnumbered, b"no record at all\r\n"):
        results, drops = read(tmp_path / "a.warc", pages[0] + broken + pages[2] + pages[3])
        assert [document.metadata["url"][-1] for document in results] == ["0", "2", "3"]
        assert [drop.reason for drop in drops] == ["broken_record"] and f"byte {len(pages[0]):,}" in drops[0].detail
    results, drops = read(tmp_path / "a.warc", pages[0] + wrong)
    assert len(results) == 1 and [drop.reason for drop in drops] == ["damaged_file"]
    results, drops = read(tmp_path / "a.warc.gz", gzip.compress(pages[0] + pages[1])[:-30])
    assert [drop.reason for drop in drops] == ["damaged_file"]
    with pytest.raises(DataError, match=r"a\.warc, row 2: expected a valid record"):
        read(tmp_path / "a.warc", pages[0] + b"no record\r\n" + pages[1], on_bad_row="error")


@needs_warcs
def test_records_equal_those_of_warcio(tmp_path: Path) -> None:
    warcio = pytest.importorskip("warcio.archiveiterator")
    for name in ("dolma-sample-0000.warc.gz", "warcio-example.warc", "warcio-example-iana.org-chunked.warc"):
        data = (WARCS / name).read_bytes()
        plain = b"".join(_gzip_members(data)) if name.endswith("gz") else data
        records = list(warc_records(io.BytesIO(plain), path=name, limit=2**24))
        assert all(isinstance(record, ArchiveRecord) for record in records)
        expected = [
            (record.rec_type, record.rec_headers.get_header("WARC-Target-URI"), record.content_stream().read())
            for record in warcio.ArchiveIterator(io.BytesIO(data))
        ]
        assert [record.type for record in records if isinstance(record, ArchiveRecord)] == [row[0] for row in expected]
        for record, (type, _, body) in zip(records, expected, strict=True):
            assert isinstance(record, ArchiveRecord)
            if type == "response":
                assert parse_http(record.content, limit=2**24).body == body


def _gzip_members(data: bytes) -> list[bytes]:
    members = []
    while data:
        member = zlib.decompressobj(31)
        members.append(member.decompress(data))
        data = member.unused_data
    return members


@needs_warcs
def test_real_web_archives_are_read_or_reported() -> None:
    counts = {}
    for path in sorted(WARCS.iterdir()):
        results, drops = read(path, format="arc" if ".arc" in path.name else "warc")
        counts[path.name] = (len(results), [drop.reason for drop in drops if drop.reason not in ("content_type",)])
    assert counts["dolma-sample-0000.warc.gz"][0] >= 10
    assert counts["warcio-example.arc.gz"] == (1, []) and counts["warcio-example.warc.gz"] == (1, [])
    assert counts["warcio-example-trunc.warc"] == (0, ["broken_record"])


# -- limits


def test_pages_above_the_limits_are_skipped_and_named(tmp_path: Path) -> None:
    slow = b"<html><body><table>" + b"<tr><td>a<td>b c d" * 30_000
    limits = ExtractionSettings(seconds=0.5, megabytes=1)
    archive = [
        page_record(slow, url="http://a.example/slow"),
        page_record(b"<html>" + b"x" * 2**20, url="http://a.example/large"),
        page_record(b"<html><body><p>Short.</p></body></html>", url="http://a.example/short"),
    ]
    results, drops = read(tmp_path / "a.warc", b"".join(archive), extraction=limits, on_bad_row="error")
    assert [document.metadata["url"] for document in results] == ["http://a.example/short"]
    assert [drop.reason for drop in drops] == ["extraction_timeout", "too_large"]
    assert "0.5 s" in drops[0].detail and "http://a.example/large" in drops[1].detail


def test_a_large_text_is_cut_at_blank_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "PART_BYTES", 100)
    paragraphs = [f"Paragraph {number:03d} of the long text.\nIts second line.\n\n" for number in range(20)]
    results, _ = read(tmp_path / "a.txt", "".join(paragraphs).encode())
    assert "".join(document.text for document in results) == "".join(paragraphs)
    assert [document.id for document in results][:3] == ["a.txt:1", "a.txt:10", "a.txt:19"]
    assert all(document.text.endswith("\n\n") and len(document.text) < 200 for document in results)
    results, _ = read(tmp_path / "b.txt", "ä".encode() * 400)
    assert "".join(document.text for document in results) == "ä" * 400, "no character is cut"
    assert texts(tmp_path / "c.txt", b"x" * 199) == ["x" * 199]


# -- archives


def tar_file(members: list[tuple[str, bytes]]) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        link = tarfile.TarInfo("link.txt")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    return data.getvalue()


MEMBERS = [
    ("a.txt", b"one"),
    ("../../b.jsonl.gz", gzip.compress(b'{"text": "two"}\n')),
    ("d/picture.png", b"\x89PNG\r\n\0"),
    (".hidden.txt", b"hidden"),
    ("__MACOSX/a.txt", b"hidden"),
    ("cut.txt.gz", gzip.compress(b"a text that is cut off")[:-4]),
    ("inner.zip", zip_file([("x.txt", b"inner")])),
    ("large.jsonl", b'{"text": "large"}\n' * 100_000),
]


@pytest.mark.parametrize(
    ("name", "pack"),
    [("a.zip", zip_file), *(pytest.param(name, tar_file, marks=pytest.mark.slow) for name in ("a.tar", "a.tgz"))],
)
def test_members_of_archives_are_read_and_the_others_are_named(tmp_path: Path, name: str, pack: Any) -> None:
    data = pack(MEMBERS)
    results, drops = read(tmp_path / name, gzip.compress(data) if name.endswith("tgz") else data)
    assert [(document.id, document.text) for document in results[:3]] == [
        (f"{name}/a.txt", "one"), (f"{name}/b.jsonl.gz:1", "two"), (f"{name}/large.jsonl:1", "large"),
    ]  # fmt: skip
    assert len(results) == 100_002
    reasons = [drop.reason for drop in drops]
    skipped = ["no_reader", "hidden_member", "hidden_member", "damaged_file", "nested_archive"]
    assert reasons == skipped + (["not_a_file"] if pack is tar_file else [])
    assert drops[2].detail.endswith("the hidden member __MACOSX/a.txt")
    assert not any("passwd" in document.text for document in results)


def test_damaged_and_encrypted_archives_are_reported(tmp_path: Path) -> None:
    data = bytearray(zip_file([("a.txt", b"first" * 100), ("b.txt", b"second" * 100)]))
    start = data.index(b"a.txt") + 10
    data[start : start + 4] = b"\xff\xff\xff\xff"
    results, drops = read(tmp_path / "a.zip", bytes(data))
    assert [document.text for document in results] == ["second" * 100]
    assert [drop.reason for drop in drops] == ["damaged_file"] and "a.txt" in drops[0].detail
    results, drops = read(tmp_path / "b.zip", bytes(data[:-30]))
    assert [document.text for document in results] == ["second" * 100]
    assert [(drop.id, drop.reason) for drop in drops] == [("b.zip", "damaged_file"), ("b.zip:1", "damaged_file")]
    data = bytearray(zip_file([("a.txt", b"secret")]))
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(mark) + offset] |= 1
    assert [drop.reason for drop in read(tmp_path / "c.zip", bytes(data))[1]] == ["encrypted"]


def test_an_archive_that_expands_too_far_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MIN_LIMIT_BYTES", 2**20)
    bomb = zip_file([(f"{number}.txt", bytes(b" " * 2**20)) for number in range(4)])
    (tmp_path / "bomb.zip").write_bytes(bomb)
    with pytest.raises(DataError, match="expands to more than 200 times its size"):
        list(documents(Source(path=str(tmp_path / "bomb.zip"))))  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("name", "data"),
    [("a.pdf", b"%PDF-1.4 and no more"), ("a.docx", docx_file("x")[:-40]), ("a.epub", b"PK\x03\x04 and no more")],
)
def test_damaged_documents_are_reported_or_stop_the_run(tmp_path: Path, name: str, data: bytes) -> None:
    _, drops = read(tmp_path / name, data)
    assert [drop.reason for drop in drops] in (["not_extractable"], ["damaged_file"])
    with pytest.raises(DataError, match=name):
        read(tmp_path / name, on_bad_row="error")


def test_http_bodies_that_are_stored_decoded_are_kept() -> None:
    response = http_response(b"plain", "Content-Encoding: gzip", "Transfer-Encoding: chunked")
    assert parse_http(response, limit=100).body == b"plain"
    assert SourceFile("a.warc.gz", "a.warc.gz", 0).suffix == "warc"


@pytest.mark.parametrize(
    ("name", "data", "extra"), [("a.html", PAGE.encode(), "web"), ("a.pdf", pdf_file("one"), "documents")]
)
def test_a_missing_library_is_named_with_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, data: bytes, extra: str
) -> None:
    monkeypatch.setattr(extractor.importlib.util, "find_spec", lambda library: None)
    with pytest.raises(MissingExtra, match=rf"{name}.*pip install 'vita-lm\[{extra}\]'"):
        read(tmp_path / name, data)
