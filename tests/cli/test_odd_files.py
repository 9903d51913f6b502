"""`vita curate` on irregular files: damaged, with other line ends, or written by Python's json."""

from __future__ import annotations

import gzip
import io
import json
from pathlib import Path
from typing import Any

import pytest
import zstandard

from tests.cli.corpora import rows, write
from tests.cli.test_cli import Vita, vita

__all__ = ["vita"]

OPTIONS = ("--set", "filters=[]", "--held-out", "0", "--name", "x")


def curate(vita: Vita, *options: str) -> str:
    code, out, err = vita("curate", *OPTIONS, *options)
    assert code == 0, err
    return out + err


def report_of(vita: Vita) -> dict[str, Any]:
    """Return the details of the corpus report."""
    folder = Path(json.loads(vita("show", "x/curate", "--json")[1])["folder"])
    return json.loads((folder / "report.json").read_text())["details"]


def numbered_rows(count: int) -> bytes:
    return b"".join(json.dumps({"id": str(n), "text": f"Text number {n}."}).encode() + b"\n" for n in range(count))


def parquet(count: int, *, damage_last_group: bool) -> bytes:
    import pyarrow
    from pyarrow import parquet

    table = pyarrow.table({"text": [f"Row number {n}. " + f"{n * 7919 % 10007:05d}" * 20 for n in range(count)]})
    file = io.BytesIO()
    parquet.write_table(table, file, row_group_size=count // 4, compression="gzip", use_dictionary=False)
    data = bytearray(file.getvalue())
    if damage_last_group:  # damage the last row group only
        data[len(data) * 3 // 4 + 200 : len(data) * 3 // 4 + 400] = bytes(200)
    return bytes(data)


DAMAGED = {
    "cut.jsonl.gz": gzip.compress(numbered_rows(3000))[:-2000],
    "cut.jsonl.zst": zstandard.compress(numbered_rows(30_000))[:-2000],
    "spoilt.jsonl.gz": (gzip_data := gzip.compress(numbered_rows(60_000)))[:-3000] + bytes(2000) + gzip_data[-1000:],
    "cut.jsonl": numbered_rows(300)[:-8],
    "empty.jsonl.gz": b"",
    "spoilt.parquet": parquet(4000, damage_last_group=True),
    "cut.parquet": parquet(400, damage_last_group=False)[:-50],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_file_is_read_up_to_the_damage_and_the_run_continues(vita: Vita, tmp_path: Path, name: str) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / name).write_bytes(DAMAGED[name])
    write(tmp_path / "in" / "whole.jsonl", {"id": "last", "text": "The file after the damaged one."})
    code, _, err = vita("curate", "in", *OPTIONS)
    assert code == 3 and name in err and "Traceback" not in err
    output = curate(vita, "--set", "sources=[{path: in, on_bad_row: drop}]")
    documents = rows(vita, "x/curate")
    assert documents[-1]["id"] == "last"
    assert (len(documents) > 1) is not (name in ("cut.parquet", "empty.jsonl.gz"))
    (drop,) = rows(vita, "x/curate", "drops")
    if name != "cut.jsonl":  # here the last line is an ordinary bad row
        assert drop["reason"] == "damaged_file" and f"a problem after {len(documents) - 1:,} row" in drop["detail"]
        assert "read 1 damaged file in part" in output and name in vita("show", "x/curate")[1]


LINES = ["First line here.", "Second line here.", "", "Third line, after a blank one."]
LINE_ENDS = {
    "lf": "\n",
    "crlf": "\r\n",
    "cr": "\r",
    "nel": "\x85",
    "ls": "\u2028",
    "ps": "\u2029",
    "ff": "\f",
    "vt": "\v",
}


@pytest.mark.slow
@pytest.mark.parametrize("cut_at", ["null", "lines", "blank_lines"])
def test_every_kind_of_line_end_gives_the_same_documents(vita: Vita, tmp_path: Path, cut_at: str) -> None:
    documents = {}
    for name, line_end in {**LINE_ENDS, "bom": "\n"}.items():
        (tmp_path / name).mkdir()
        text = ("\ufeff" if name == "bom" else "") + "".join(line + line_end for line in LINES)
        (tmp_path / name / "a.txt").write_bytes(text.encode())
        curate(vita, "--set", f"sources=[{{path: {name}, cut_at: {cut_at}, name: s}}]")
        documents[name] = [(row["id"], row["text"]) for row in rows(vita, "x/curate")]
    assert all(file_documents == documents["lf"] for file_documents in documents.values()), documents
    texts = {
        "null": ["\n".join(LINES) + "\n"],
        "lines": [line for line in LINES if line],
        "blank_lines": ["First line here.\nSecond line here.", LINES[3]],
    }
    assert [text for _, text in documents["lf"]] == texts[cut_at]


@pytest.mark.slow
def test_rows_may_end_in_crlf_or_cr_also_at_the_boundary_of_two_reads(vita: Vita, tmp_path: Path) -> None:
    for line_end in (b"\r\n", b"\r"):
        data = b"".join(b'{"text": "%07d %s"}%s' % (n, b"x" * 90, line_end) for n in range(30_000))
        (tmp_path / "a.jsonl").write_bytes(data)
        curate(vita, "a.jsonl")
        assert len(rows(vita, "x/curate")) == 30_000


def test_json_with_nan_and_lone_surrogates_is_read(vita: Vita, tmp_path: Path) -> None:
    irregular_rows = [
        {"id": "nan", "text": "Metadata that are no numbers.", "score": float("nan"), "more": [float("inf"), 1.5]},
        {"id": "half", "text": "Half a pair \ud83d here.", "tag \ude00": {"deep": ["\ud800"]}},
        {"id": "pair", "text": "A whole pair \U0001f600 here."},
    ]
    write(tmp_path / "a.jsonl", *irregular_rows)
    (tmp_path / "b.json").write_text(json.dumps([{"id": "array", "text": "In an array.", "score": float("-inf")}]))
    curate(vita, "a.jsonl", "b.json")
    documents = {row["id"]: row for row in rows(vita, "x/curate")}
    assert documents["nan"]["metadata"] == {"score": None, "more": [None, 1.5], "language": "unknown"}
    assert documents["half"]["text"] == "Half a pair \ufffd here." and documents["half"]["metadata"] == {
        "tag \ufffd": {"deep": ["\ufffd"]},
        "language": "unknown",
    }
    assert documents["pair"]["text"] == "A whole pair \U0001f600 here."
    assert documents["array"]["metadata"] == {"score": None, "language": "unknown"}
    assert report_of(vita)["sources"]["a"]["normalized"] == 1, "repaired texts are counted"


def test_a_zstd_file_with_a_long_window_is_read(vita: Vita, tmp_path: Path) -> None:
    settings = zstandard.ZstdCompressionParameters.from_level(
        1, window_log=30, enable_ldm=True, write_content_size=False
    )
    compressor = zstandard.ZstdCompressor(compression_params=settings).compressobj()
    (tmp_path / "a.jsonl.zst").write_bytes(compressor.compress(numbered_rows(3)) + compressor.flush())
    curate(vita, "a.jsonl.zst")
    assert len(rows(vita, "x/curate")) == 3


@pytest.mark.slow
@pytest.mark.parametrize("codec", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_text_in_wide_encodings_is_read(vita: Vita, tmp_path: Path, codec: str) -> None:
    (tmp_path / "a.txt").write_bytes("a text with äöü\n".encode(codec))
    curate(vita, "a.txt")
    assert [row["text"] for row in rows(vita, "x/curate")] == ["a text with äöü\n"]
    assert codec in report_of(vita)["sources"]["a"]["encodings"]


def test_a_binary_file_is_refused(vita: Vita, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"a\0\1\2text" * 9)
    code, _, err = vita("curate", "a.txt", *OPTIONS)
    assert code == 3 and "a binary file" in " ".join(err.split()), err


def test_ids_are_unique_also_when_a_numbered_id_exists_already(vita: Vita, tmp_path: Path) -> None:
    ids = ["0", "0#2", "0", "0", "0#2", "1", "0#2#2"]
    texts = [{"id": id, "text": f"Text number {n}."} for n, id in enumerate(ids)]
    write(tmp_path / "a.jsonl", *texts, {"id": "copy", "text": "TEXT number 3."})
    curate(vita, "a.jsonl")
    documents = {row["id"]: row["text"] for row in rows(vita, "x/curate")}
    assert len(documents) == len(ids)
    assert {id: documents[id] for id in ("0", "0#2", "1", "0#2#2")} == {
        "0": "Text number 0.", "0#2": "Text number 1.", "1": "Text number 5.", "0#2#2": "Text number 6.",
    }  # fmt: skip
    (drop,) = rows(vita, "x/curate", "drops")
    assert documents[drop["repeats"]["id"]] == "Text number 3.", "the drop names the retained copy by its new id"


@pytest.mark.slow
def test_a_single_text_file_is_a_corpus_without_held_out_documents(vita: Vita, tmp_path: Path) -> None:
    (tmp_path / "input.txt").write_text("All of the text.\n")
    code, out, err = vita("curate", "input.txt", "--set", "filters=[]", "--name", "x")
    assert code == 0 and len(rows(vita, "x/curate")) == 1, err
    assert "nothing is held out: no interval can be determined" in " ".join((out + err).split())
