"""Documents and dialogues from every kind of source, and clear errors for unusable input."""

from __future__ import annotations

import gzip
import json
import lzma
import random
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pytest
import zstandard
from pyarrow import parquet

from tests.data.sources.document_files import zip_file
from vita.data.records import Dialogue, Document, DroppedRecord, Message
from vita.data.sources.read import Source, dialogues, documents, skipped_files, split_source
from vita.data.sources.records_from_rows import default_name
from vita.data.world import WorldSettings
from vita.spine.config import build
from vita.spine.errors import ConfigError, DataError, MissingExtra

ROWS = [
    {"id": "x1", "text": "One.", "source": "web", "license": "CC0", "metadata": {"year": 1}, "url": "u"},
    {"text": "Two."},
]


def jsonl(rows: list[Any]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def create_source(path: Path, **settings: Any) -> Source:
    return build(Source, {"path": str(path), **settings}, where="source")


def error_message(source: Source) -> str:
    with pytest.raises(DataError) as error:
        list(documents(source))
    assert "\n" not in str(error.value)
    return str(error.value)


# -- documents


def test_a_row_keeps_its_id_source_licence_and_metadata(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(jsonl(ROWS))
    assert list(documents(create_source(tmp_path / "a.jsonl", licence="MIT"))) == [
        Document("x1", "One.", "web", "CC0", {"url": "u", "year": 1}),
        Document("a.jsonl:2", "Two.", "a", "MIT", {}),
    ]


def test_the_name_of_the_source_replaces_that_of_the_row(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(jsonl(ROWS))
    first, second = documents(create_source(tmp_path / "a.jsonl", name="mine"))
    assert (first.source, first.metadata["source"], second.source) == ("mine", "web", "mine")


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("books/a.txt", "a"),
        ("books", "books"),
        ("../books/*/x*.txt.gz", "books"),
        ("v1.2/", "v1.2"),
        ("*.txt", "text"),
        ("http://bob:pw@host/*.jsonl", "host"),
        ("http://bob:pw@host/d/a.jsonl?token=x", "a"),
    ],
)
def test_documents_without_a_source_are_named_by_the_path(path: str, name: str) -> None:
    assert default_name(Source.model_validate(path)) == name


def test_all_file_formats_give_the_same_texts(tmp_path: Path) -> None:
    data, rows = jsonl(ROWS), [{"text": row["text"]} for row in ROWS]
    (tmp_path / "a.jsonl").write_bytes(data)
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(data))
    (tmp_path / "c.jsonl.zst").write_bytes(zstandard.compress(data))
    (tmp_path / "d.ndjson").write_bytes(data.replace(b"\n", b"\r\n\n"))
    (tmp_path / "e.json").write_text(json.dumps(ROWS))
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "f.parquet")
    (tmp_path / "g.txt").write_text("One.\n\n\nTwo.\n")
    for file in sorted(tmp_path.iterdir()):
        source = create_source(file, cut_at="blank_lines")
        assert [document.text for document in documents(source)] == ["One.", "Two."], file.name
    assert len(list(documents(create_source(tmp_path, cut_at="lines")))) == 14


def test_a_text_file_is_one_document_unless_it_is_split(tmp_path: Path) -> None:
    file = tmp_path / "notes.md"
    file.write_bytes(b"\xef\xbb\xbf# A\nb\n\n \nc\n")
    file_documents = list(documents(create_source(file)))
    assert [(document.id, document.text, document.source) for document in file_documents] == [
        ("notes.md", "# A\nb\n\n \nc\n", "notes")
    ]
    paragraph_documents = list(documents(create_source(file, cut_at="blank_lines")))
    assert [(document.id, document.text) for document in paragraph_documents] == [
        ("notes.md:1", "# A\nb"),
        ("notes.md:5", "c"),
    ]
    assert [document.id for document in documents(create_source(file, cut_at="lines"))] == [
        "notes.md:1",
        "notes.md:2",
        "notes.md:5",
    ]


def test_a_folder_is_read_in_order_and_skips_unknown_formats(tmp_path: Path) -> None:
    for name in ("b.txt", "a/z.txt", "a/picture.png", "data.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    source = create_source(tmp_path)
    assert [document.text for document in documents(source)] == ["a/z.txt", "b.txt"]
    assert skipped_files(source) == ["a/picture.png"]
    for name in (".hidden.txt", "a/.x.jsonl", ".git/config.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    assert skipped_files(source) == ["a/picture.png", ".git/", ".hidden.txt", "a/.x.jsonl"]
    assert len([*documents(source)]) == 2


def test_zero_bytes_in_rows_of_json_are_damage_of_these_rows(tmp_path: Path) -> None:
    rows = [json.dumps({"text": f"The text of row {number}."}) for number in range(5)]
    damaged = rows[2][:9] + "\0" * 9 + rows[2][18:]
    for name, content, expected in (
        ("a.jsonl", "\n".join([*rows[:2], damaged, *rows[3:]]), [0, 1, 3, 4]),
        ("a.jsonl", "\n".join(rows) + "\n" + "\0" * 4096, [0, 1, 2, 3, 4]),
        ("a.jsonl", "\n".join([rows[0][:5] + "\0" + rows[0][6:], *rows[1:]]), [1, 2, 3, 4]),
        ("a.jsonl", "\0" * 4096 + "\n".join([rows[0][9:], *rows[1:]]), [1, 2, 3, 4]),
        ("a.json", f"[{', '.join([*rows[:2], damaged, *rows[3:]])}]", [0, 1]),
    ):
        (tmp_path / name).write_text(content)
        drops: list[DroppedRecord] = []
        source = Source.model_validate({"path": str(tmp_path / name), "on_bad_row": "drop"})
        texts = [document.text for document in documents(source, dropped=drops.append)]
        assert texts == [f"The text of row {number}." for number in expected] and len(drops) == 1


def test_files_without_rows_are_reported(tmp_path: Path) -> None:
    contents = {
        "a.txt": b"", "b.jsonl": b"\n \n", "c.csv": b"text\n", "d.warc": b"", "e.txt.gz": gzip.compress(b""),
        "f.zip": zip_file([("g.txt", b""), ("h.txt", b"text")]),
    }  # fmt: skip
    for name, data in contents.items():
        (tmp_path / name).write_bytes(data)
    dropped: list[DroppedRecord] = []
    assert [
        document.text for document in documents(Source.model_validate({"path": str(tmp_path)}), dropped=dropped.append)
    ] == ["text"]
    empty = ["a.txt", "b.jsonl", "c.csv", "d.warc", "e.txt.gz", "f.zip/g.txt"]
    assert [(drop.id, drop.reason) for drop in dropped] == [(name, "empty_file") for name in empty]
    assert dropped[0].detail == "expected a file with text or rows, got no row (0 bytes)"
    assert list(dialogues(Source.model_validate({"path": str(tmp_path / "a.txt")}), dropped=dropped.append)) == []


def test_a_curated_folder_has_only_its_training_documents(tmp_path: Path) -> None:
    names = ["train/0.jsonl", "heldout/0.jsonl", "dropped/0.jsonl", "report.json", "report.md", "croissant.json"]
    for name in names:
        path = tmp_path / "clean" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"text": name}) + "\n" if name.endswith("l") else "{}")
    (tmp_path / "croissant.json").write_text('[{"text": "no curated folder"}]')

    def texts(path: Path) -> list[str]:
        return [document.text for document in documents(Source.model_validate({"path": str(path)}))]

    clean = tmp_path / "clean"
    assert texts(clean) == texts(clean / "*") == ["train/0.jsonl"]
    assert texts(tmp_path) == ["train/0.jsonl", "no curated folder"]
    assert texts(clean / "heldout") == ["heldout/0.jsonl"] and texts(clean / "dropped") == ["dropped/0.jsonl"]
    assert skipped_files(Source.model_validate({"path": str(clean)})) == sorted(names[1:])


def test_the_text_field_is_detected_or_set(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(jsonl([{"content": "Found.", "poem": "Named."}]))
    assert next(documents(create_source(tmp_path / "a.jsonl"))).text == "Found."
    assert next(documents(create_source(tmp_path / "a.jsonl", text_field="poem"))).text == "Named."
    (tmp_path / "b.txt").write_text("Plain.")
    assert next(documents(create_source(tmp_path / "b.txt", text_field="poem"))).text == "Plain."


def test_a_limit_reads_the_first_documents(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.jsonl").write_bytes(jsonl(ROWS))
    source = create_source(tmp_path, limit=3)
    assert len(list(documents(source))) == 3
    assert len(split_source(source, bytes_each=1)) == 1


def test_source_slices_contain_every_file_once_in_order(tmp_path: Path) -> None:
    for number in range(10):
        (tmp_path / f"{number}.txt").write_text("x" * 10 * (number + 1))
    source = create_source(tmp_path)
    for size in (1, 60, 200, 10**6):
        parts = split_source(source, bytes_each=size)
        assert [file.name for part in parts for file in part.files] == [f"{number}.txt" for number in range(10)]
        assert all(part.size >= size for part in parts[:-1])
        texts = [document.text for part in parts for document in documents(part)]
        assert texts == [document.text for document in documents(source)]


# -- other origins


def test_the_built_in_world_gives_documents_and_dialogues() -> None:
    source = Source(world=WorldSettings(documents=5, dialogues=3), name="small")
    world_documents, world_dialogues = list(documents(source)), list(dialogues(source))
    assert len(world_documents) == 5 and len(world_dialogues) == 3
    assert {record.source for record in [*world_documents, *world_dialogues]} == {"small"}
    assert all(record.licence for record in [*world_documents, *world_dialogues])


def test_a_hub_data_set_is_streamed(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []

    def load_dataset(name: str, subset: str | None, *, split: str, streaming: bool) -> Any:
        calls.append((name, subset, split, streaming))
        return iter(ROWS)

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    source = Source(huggingface="someone/stories", subset="en", split="validation")
    first, second = documents(source)
    assert calls == [("someone/stories", "en", "validation", True)]
    assert (first.id, second.id, second.source) == ("x1", "stories:2", "stories")


def test_a_hub_data_set_without_the_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtra, match=r"pip install 'vita-lm\[datasets\]'"):
        list(documents(Source(huggingface="someone/stories")))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_datasets_library_reads_a_local_folder(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    (tmp_path / "train.jsonl").write_bytes(jsonl([{"text": "One."}, {"text": "Two."}]))
    source = Source(huggingface=str(tmp_path))
    assert [document.text for document in documents(source)] == ["One.", "Two."]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "give exactly one of path, world, huggingface, not none"),
        ({"path": "hf://datasets/a/b"}, "is the source `{huggingface: a/b}`, not a path"),
        ({"path": "a", "huggingface": "b"}, "not path and huggingface"),
        ({"path": "a", "repeat": 0}, "greater than 0"),
        ({"path": "a", "licens": "x"}, "did you mean `licence`"),
    ],
)
def test_invalid_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(Source, settings, where="source")


# -- unusable input


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.txt", b"\x89PNG\r\n\x1a\n\0\0", "a.txt: expected text, got bytes that look like a PNG picture"),
        ("a.txt", b"one\ntwo \xe4\xf6\n", "a.txt: expected text in UTF-8, got the byte 0xe4 in line 2; set `encoding`"),
        ("a.jsonl", b'{"text": "a"}\n{"text": "b\n', "a.jsonl, row 2: expected a JSON object, got"),
        ("a.jsonl", b'{"text": "caf\xe9"}\n', "row 1: expected JSON in UTF-8, got the byte 0xe9 at column 14"),
        ("a.jsonl", b"[1, 2]\n", "row 1: expected a JSON object with fields, got an array"),
        ("a.jsonl", b'{"titel": "a", "n": 1}\n', "row 1: expected a text field .* only the fields titel, n; name"),
        ("a.jsonl", b'{"text": null}\n', "row 1: expected text in the field `text`, got .?null.?; correct the row"),
        ("a.jsonl.zst", zstandard.compress(jsonl(ROWS))[:-3], "a.jsonl.zst: is cut off"),
        ("a.json", b'{"title": "a"}', "a.json, row 1: expected a text field .* only the fields title; name it with"),
        ("a.json", b'{\n"data": [{"text": "a"}]}', "a.json, row 1: expected a text field .* only the fields data"),
        ("a.json", b'"a"', "a.json: expected a JSON array of objects, or one object, got a string; write one JSON"),
        ("a.json", b'{"text": "a"}\n{"text": "b}\n', "a.json, row 2: expected a JSON object, got"),
        ("a.json", b'{\n"text": "a"\n}\n{\n"text": "b"\n}', r"a.json: is not JSON: Extra data \(byte 16\); write one"),
        ("a.json", b'[{"text": "a"}', "a.json: is not JSON"),
        ("a.parquet", b"PAR1 but no more", "a.parquet: cannot be read as parquet"),
        ("a.dat", b"a,b", r"expected files of these formats: \.jsonl, .*, got 'a\.dat'; set `format`"),
        ("a.csv", b"a,b\n1,2\n", r"a\.csv, row 1: expected a text field .* only the fields a, b; name it"),
    ],
)  # fmt: skip
def test_invalid_input_is_refused_with_a_single_line(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=message) as error:
        list(documents(create_source(tmp_path / name)))
    assert "\n" not in str(error.value)


ARRAY = b'[{"text": "a"}, {"text": "b\\u00e9, ]"}, {"text": "c"}, {"text": "d"}]'


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (ARRAY[:-1], 4),
        (ARRAY[:-5], 3),
        (ARRAY.replace(b'"d"', b'"d'), 3),
        (ARRAY.replace(b'"c"', b"c"), 2),
        (ARRAY.replace(b'}, {"text": "c"', b'} {"text": "c"'), 2),
        (ARRAY.replace(b'"c"', b'"\xff"'), 2),
        (ARRAY.replace(b'"c"', b"[" * 200_000 + b"]" * 200_000), 2),
        (ARRAY[:-1] + b",]", 4),
        (ARRAY + ARRAY, 4),
        (ARRAY + b"\n" + ARRAY, 4),
        (ARRAY + b"\ngarbage", 4),
        (ARRAY + b"\n\xff{", 4),
        (b'"a" ' + ARRAY, 0),
    ],
)
def test_rows_before_the_damage_of_an_array_are_kept(tmp_path: Path, data: bytes, expected: int) -> None:
    (tmp_path / "a.json").write_bytes(data)
    dropped: list[DroppedRecord] = []
    source = create_source(tmp_path / "a.json", on_bad_row="drop")
    texts = [document.text for document in documents(source, dropped=dropped.append)]
    assert texts == ["a", "b\u00e9, ]", "c", "d"][:expected]
    assert [(drop.reason, f"after {expected} row" in drop.detail) for drop in dropped] == [("damaged_file", True)]
    assert "a.json: is not JSON" in error_message(create_source(tmp_path / "a.json"))


@pytest.mark.parametrize(("name", "compress"), [("a.json.gz", gzip.compress), ("a.json.xz", lzma.compress)])
def test_rows_before_the_end_of_a_truncated_compressed_array_are_kept(
    tmp_path: Path, name: str, compress: Callable[[bytes], bytes]
) -> None:
    generator = random.Random(1)
    rows = [f"{number} {generator.randbytes(20).hex()}" for number in range(3000)]
    data = compress(json.dumps([{"text": text} for text in rows]).encode())
    for stop, smallest, largest in ((len(data) * 2 // 3, 1900, 2100), (len(data) - 4, 3000, 3000)):
        (tmp_path / name).write_bytes(data[:stop])
        dropped: list[DroppedRecord] = []
        source = create_source(tmp_path / name, on_bad_row="drop")
        texts = [document.text for document in documents(source, dropped=dropped.append)]
        assert smallest <= len(texts) <= largest and texts == rows[: len(texts)]
        assert [drop.reason for drop in dropped] == ["damaged_file"] and "is cut off after" in dropped[0].detail
        assert "is cut off after" in error_message(create_source(tmp_path / name))


def test_ids_that_are_numbers_keep_all_digits(tmp_path: Path) -> None:
    numbers = ["9007199254740993.0", "-9007199254740995.0", "12345678901234567890123", "1.5e20", "7.0", "NaN"]
    expected = ["9007199254740993", "-9007199254740995", "12345678901234567890123", f"{15 * 10**19}", "7"]
    rows = [f'{{"id": {number}, "text": "a"}}' for number in [*numbers, "9007199254740993.5"]]
    for name, data in (("a.jsonl", "\n".join(rows)), ("a.json", f"[{','.join(rows)}]"), ("b.json", rows[0])):
        (tmp_path / name).write_text(data)
        *results, last = documents(create_source(tmp_path / name))
        if name == "b.json":
            assert last.id == expected[0]
            continue
        assert [document.id for document in results] == [*expected, f"{name}:6"]
        assert last.id == f"{name}:7" and str(last.metadata["stated_id"]) == "9007199254740993.5"


def test_a_folder_without_usable_files_is_refused_with_its_suffixes(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"x")
    (tmp_path / "b.log").write_bytes(b"x")
    assert "got .log, .png" in error_message(create_source(tmp_path))


def test_maps_in_parquet_are_objects(tmp_path: Path) -> None:
    strings = pyarrow.map_(pyarrow.string(), pyarrow.string())
    numbers = pyarrow.map_(pyarrow.int8(), pyarrow.int8())
    columns = {
        "text": ["a"],
        "login": pyarrow.array([[("user", "bob"), ("password", "swordfish")]], strings),
        "nested": pyarrow.array([[{"m": [(1, 2)]}]], pyarrow.list_(pyarrow.struct({"m": numbers}))),
        "repeated": pyarrow.array([[(1, 3), (1, 4)]], numbers),
    }
    parquet.write_table(pyarrow.table(columns), tmp_path / "a.parquet")
    (document,) = documents(create_source(tmp_path / "a.parquet"))
    assert document.metadata == {
        "login": {"user": "bob", "password": "swordfish"},
        "nested": [{"m": {"1": 2}}],
        "repeated": [{"key": "1", "value": 3}, {"key": "1", "value": 4}],
    }


def test_parquet_without_the_text_column_is_refused_with_its_columns(tmp_path: Path) -> None:
    parquet.write_table(pyarrow.table({"title": ["a"], "words": [3]}), tmp_path / "a.parquet")
    assert "only the fields title, words; name it with `text_field`" in error_message(
        create_source(tmp_path / "a.parquet")
    )


def test_a_missing_path_is_refused(tmp_path: Path) -> None:
    assert "no such file" in error_message(create_source(tmp_path / "none.jsonl"))


def test_bad_rows_can_be_dropped_with_their_reasons(tmp_path: Path) -> None:
    rows = b'{"text": "a"}\nnot json\n{"id": 7, "title": "b"}\n{"text": "c"}\n'
    (tmp_path / "a.jsonl").write_bytes(rows)
    (tmp_path / "b.txt").write_bytes(b"\xff\xfe\xfd"[2:])
    dropped: list[DroppedRecord] = []
    source = create_source(tmp_path, on_bad_row="drop", name="web")
    assert [document.text for document in documents(source, dropped=dropped.append)] == ["a", "c"]
    assert [(drop.id, drop.source, drop.reason) for drop in dropped] == [
        ("a.jsonl:2", "web", "not_json"), ("7", "web", "no_text"), ("b.txt", "web", "not_utf8"),
    ]  # fmt: skip
    assert "expected a JSON object, got 'not json'" in dropped[0].detail


# -- dialogues


def test_unused_columns_of_a_dialogue_become_metadata(tmp_path: Path) -> None:
    row = {"instruction": "Add.", "input": "1 2", "output": "3", "id": 4, "license": "MIT", "level": "easy"}
    (tmp_path / "sums.jsonl").write_bytes(jsonl([row]))
    (dialogue,) = dialogues(create_source(tmp_path / "sums.jsonl"))
    messages = (Message("user", "Add.\n\n1 2"), Message("assistant", "3"))
    assert dialogue == Dialogue("4", messages, "sums", "MIT", {"level": "easy"})


def test_the_format_of_a_file_is_that_of_its_first_row(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(jsonl([{"prompt": "p", "completion": "c"}]))
    (tmp_path / "b.jsonl").write_bytes(jsonl([{"question": "q", "answer": "a"}]))
    assert [dialogue.messages[0].content for dialogue in dialogues(create_source(tmp_path))] == ["p", "q"]


def test_a_row_of_another_format_is_refused_with_its_number(tmp_path: Path) -> None:
    rows = [{"question": "q", "answer": "a"}, {"question": "q"}, {"question": "q", "answer": 3}]
    (tmp_path / "a.jsonl").write_bytes(jsonl(rows))
    message = r"a\.jsonl, row 2: expected a row of the format question_answer .*, got the fields question"
    with pytest.raises(DataError, match=message):
        list(dialogues(create_source(tmp_path / "a.jsonl")))
    dropped: list[DroppedRecord] = []
    assert len(list(dialogues(create_source(tmp_path / "a.jsonl", on_bad_row="drop"), dropped=dropped.append))) == 1
    assert [drop.reason for drop in dropped] == ["misfit", "misfit"]


def test_rows_without_a_dialogue_are_refused_with_the_formats(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(jsonl(ROWS))
    with pytest.raises(
        DataError, match=r"one of the formats alpaca \(instruction, output\|response\); .* got the fields id"
    ):
        list(dialogues(create_source(tmp_path / "a.jsonl", on_bad_row="drop")))


@pytest.mark.slow
def test_every_shared_file_of_instructions_is_read(shared: Path) -> None:
    for file in sorted((shared / "data" / "instruct").iterdir()):
        file_dialogues = list(dialogues(create_source(file, on_bad_row="error")))
        assert file_dialogues and all(dialogue.messages for dialogue in file_dialogues), file.name
        assert all(dialogue.messages[-1].role == "assistant" for dialogue in file_dialogues), file.name
