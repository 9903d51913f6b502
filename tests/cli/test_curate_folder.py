"""`vita curate IN --out FOLDER`: curation into a folder of the user, and a single text whose end is held out."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any
from uuid import UUID

import orjson
import pytest

from tests.cli.corpora import write
from tests.cli.test_cli import Vita, vita
from vita.data.curation.corpus import read_corpus, read_lines
from vita.data.curation.text_end import cut_pieces, divide_text
from vita.spine.ledger import Ledger

__all__ = ["vita"]

ROWS = [{"id": str(number), "text": f"Text number {number} has enough words."} for number in range(10)]


def rows(folder: Path) -> list[dict[str, Any]]:
    return [orjson.loads(line) for path in sorted(folder.glob("*.jsonl.zst")) for line in read_lines(path)]


def parquet_rows(folder: Path) -> list[dict[str, Any]]:
    from pyarrow import parquet

    return [row for path in sorted(folder.glob("*.parquet")) for row in parquet.read_table(path).to_pylist()]


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_documents_and_decisions_are_written_to_the_folder(vita: Vita, tmp_path: Path, form: str) -> None:
    write(tmp_path / "a.jsonl", *ROWS, ROWS[3] | {"id": "copy"}, {"id": "short", "text": "Short."}, {"id": "bad"})
    (tmp_path / "curate.yaml").write_text("filters: [{length: {min_words: 3}}]\nheld_out: 2\n")
    options = ("--config", "curate.yaml", "--workers", "1", "--shards", form)
    sources = ("--set", "sources.0.on_bad_row=drop")
    code, out, err = vita("curate", "a.jsonl", "--out", "clean", *options, *sources)
    assert code == 0 and "8 training, 2 held-out, 3 dropped documents" in " ".join(out.split()), err
    folder = tmp_path / "clean"
    assert sorted(path.name for path in folder.iterdir()) == [
        "croissant.json", "dropped", "figures", "heldout", "report.html", "report.json", "report.md", "train",
    ]  # fmt: skip
    read = rows if form == "jsonl" else parquet_rows
    train, held_out, dropped = (read(folder / name) for name in ("train", "heldout", "dropped"))
    assert [row["split"] for row in (*train, *held_out)] == ["train"] * 8 + ["held_out"] * 2
    assert sorted(row["text"] for row in (*train, *held_out)) == sorted(row["text"] for row in ROWS)
    decisions = {row["id"]: (row["reason"], row.get("text") or "") for row in dropped}
    assert decisions == {
        "copy": ("duplicate", ROWS[3]["text"]), "short": ("length.short", "Short."), "bad": ("no_text", ""),
    }  # fmt: skip
    assert_croissant_describes(folder)
    code, _, err = vita("curate", "a.jsonl", "--out", "clean")
    assert code == 4 and "expected a new or empty folder" in err


def test_secrets_in_texts_maps_and_numbers_of_parquet_are_masked(vita: Vita, tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    text = "The shop has new passwords. DB_PASSWORD=pass&word;x1\nmysql -u root -psw0rd&fish shop\npassword: !vault |"
    login = pyarrow.array(
        [[("user", "bob"), ("password", "swordfish")]], pyarrow.map_(pyarrow.string(), pyarrow.string())
    )
    columns = {"text": [text], "login": login, "paid": [4111111111111111], "refund": [4111111111111111.0]}
    columns |= {"license": ["by ann@mail.net"], "url": ["https://bob:swordfish@a.net/?token=t0psecret&page=2"]}
    columns |= {"source": ["https://a.net/feed?key=t0psecret"]}
    parquet.write_table(pyarrow.table(columns), tmp_path / "a.parquet")
    options = ("--set", "filters=[]", "--held-out", "0", "--workers", "1")
    assert vita("curate", "a.parquet", "--out", "clean", *options)[0] == 0
    (row,) = rows(tmp_path / "clean" / "train")
    assert row["text"] == text.replace("pass&word;x1", "<KEY>").replace("sw0rd&fish", "<KEY>")
    metadata = row["metadata"]
    assert (
        metadata["login"] == {"user": "bob", "password": "<KEY>"} and metadata["paid"] == metadata["refund"] == "<CARD>"
    )
    assert metadata["masked"] == {"key": 4, "card": 2}
    assert row["licence"] == "by <EMAIL>" and row["source"] == "https://a.net/feed?key=***"
    assert metadata["url"] == "https://***@a.net/?token=***&page=2"
    secrets = (b"ann@mail", b"swordfish", b"t0psecret")
    files = [path for path in (tmp_path / "clean").rglob("*") if path.is_file()]
    contents = [b"".join(read_lines(path)) if path.suffix == ".zst" else path.read_bytes() for path in files]
    assert not [secret for secret in secrets for content in contents if secret in content]


@pytest.mark.slow
@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_an_exported_folder_is_a_corpus_if_its_shards_are_json_lines(vita: Vita, tmp_path: Path, form: str) -> None:
    write(tmp_path / "a.jsonl", *ROWS)
    options = ("--set", "filters=[]", "--held-out", "2", "--workers", "1", "--shards", form)
    assert vita("curate", "a.jsonl", "--out", "clean", *options)[0] == 0
    code, _, err = vita("tokenize", "--corpus", "clean", "--set", "vocabulary=270")
    if form == "parquet":
        hint = "expected a corpus with shards in JSON Lines, got shards in Parquet; write it with `vita curate DATA"
        assert code == 3 and hint in " ".join(err.split())
        return
    assert code == 0, err
    (tokenizer,) = (tmp_path / "vita-store").glob("**/tokenizer/tokenizer.json")
    design = ("--depth", "1", "--width", "32", "--context", "32", "--steps", "2", "--tokens-per-step", "64")
    shutil.copytree(tokenizer.parent.parent, tmp_path / "tokens")
    code, _, err = vita("design", "--tokens", "tokens", *design, "--timed-steps", "0", "--life", "imported")
    assert code == 0, err
    documents = [*read_corpus(tmp_path / "clean", "train"), *read_corpus(tmp_path / "clean", "heldout")]
    assert sorted(document.text for document in documents) == sorted(row["text"] for row in ROWS)


def test_ids_of_every_type_are_kept(vita: Vita, tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    uuid = UUID("12345678-1234-5678-1234-567812345678")
    texts = ["The first long text.", "A second text, unlike it.", "Something else is third."]
    columns = {"numbers": [7.0, None, 1.5], "uuids": [uuid.bytes, b"\x9c\x0d", None]}
    for name, ids in columns.items():
        parquet.write_table(
            pyarrow.table({"id": ids, "text": [f"{name}: {text}" for text in texts]}), f"{name}.parquet"
        )
    large = "12345678901234567890123"
    Path("rows.jsonl").write_text(f'{{"id": {large}, "text": "With a large id."}}\n{{"id": true, "text": "A flag."}}\n')
    Path("array.json").write_text(f'[{{"id": {large}1, "text": "In an array."}}, {{"id": -3e0, "text": "A float."}}]')
    names = ("numbers.parquet", "uuids.parquet", "rows.jsonl", "array.json")
    code, out, err = vita(
        "curate", *names, "--out", "clean", "--set", "filters=[]", "--held-out", "0", "--workers", "1"
    )
    assert code == 0, err
    documents = {row["id"]: row["metadata"] for row in rows(Path("clean/train"))}
    assert documents.keys() == {
        "7", "numbers.parquet:2", "numbers.parquet:3", str(uuid), "9c0d", "uuids.parquet:3", large, "rows.jsonl:2",
        f"{large}1", "-3",
    }  # fmt: skip
    stated = {id: metadata["stated_id"] for id, metadata in documents.items() if "stated_id" in metadata}
    assert stated == {"numbers.parquet:3": 1.5, "rows.jsonl:2": True}
    assert "(1 of numbers, 1 of rows)" in " ".join((out + err).split())


def test_a_share_is_not_all_documents_and_a_former_split_is_dropped(vita: Vita, tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", *({"id": f"a{n}", "text": f"The text of number {n} is short."} for n in range(28)))
    options = ("--set", "filters=[]", "--set", "deduplicate.documents=exact", "--workers", "1")
    code, _, err = vita("curate", "a.jsonl", "--out", "clean", "--held-out", "0.999", *options)
    assert code == 0, err
    counts = {part: len(rows(tmp_path / "clean" / part)) for part in ("train", "heldout")}
    assert counts == {"train": 1, "heldout": 27}
    code, _, err = vita("curate", "clean/heldout", "--out", "again", "--held-out", "3", *options)
    assert code == 0, err
    again = rows(tmp_path / "again/train")
    assert len(again) == 24 and not any("split" in row["metadata"] for row in again)
    for value in ("1.5", "-1"):
        code, _, err = vita("curate", "a.jsonl", "--out", "other", "--held-out", value, *options)
        assert code == 2 and "held_out" in err, err


def test_the_ledger_does_not_record_the_rows_of_a_corpus_without_documents(vita: Vita, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("Ann Miller, Elm Street\n", encoding="utf-8")
    code, _, err = vita("curate", "a.jsonl", "--set", "on_bad_row=drop")
    assert code == 3 and "Ann Miller, Elm Street" in " ".join(err.split())
    (run,) = Ledger(tmp_path / "vita-store" / "ledger.db").find()
    assert "no document is left" in str(run.problem) and "(data, not recorded)" in str(run.problem)
    assert "Ann Miller" not in str(run.problem)


def test_the_ledger_does_not_record_the_row_that_an_error_quotes(vita: Vita, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "A text."}\nAnn Miller, ann@mail.net\n', encoding="utf-8")
    code, _, err = vita("curate", "a.jsonl")
    assert code == 3 and "got 'Ann Miller, ann@mail.net'" in " ".join(err.split())
    (run,) = Ledger(tmp_path / "vita-store" / "ledger.db").find()
    assert run.problem == (
        "a.jsonl, row 2: expected a JSON object, got (data, not recorded); correct the row, or set `on_bad_row: drop`"
    )
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or path.name == "a.jsonl" or b"ann@mail.net" not in path.read_bytes(), path


def test_the_quoted_beginning_of_a_long_row_ends_before_a_value_that_is_cut(vita: Vita, tmp_path: Path) -> None:
    lines = [
        "The number of Ann Miller, the author of the text, is +49 30 901820 and +49 30 901821.",
        "The password of the new shop of Ann Miller is: password=s3cret-s3cret, and no other.",
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(['{"text": "A text."}', *lines]), encoding="utf-8")
    options = ("--out", "clean", "--set", "on_bad_row=drop", "--set", "filters=[]", "--held-out", "0")
    code, _, err = vita("curate", "a.jsonl", *options)
    assert code == 0, err
    number, password = (row["detail"] for row in rows(tmp_path / "clean" / "dropped"))
    assert "of the text, is '..." in number and "Ann Miller is: '..." in password


def assert_croissant_describes(folder: Path) -> None:
    content = orjson.loads((folder / "croissant.json").read_bytes())
    assert content["conformsTo"][0] == "http://mlcommons.org/croissant/1.0"
    assert "8 training documents" in content["description"] and content["license"] == ["not stated"]
    files = {entry["contentUrl"]: entry for entry in content["distribution"] if entry["@type"] == "cr:FileObject"}
    paths = [path for name in ("train", "heldout", "dropped") for path in (folder / name).iterdir()]
    assert sorted(files) == sorted(path.relative_to(folder).as_posix() for path in paths)
    for path in paths:
        entry = files[path.relative_to(folder).as_posix()]
        assert entry["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
        assert entry["contentSize"] == f"{path.stat().st_size} B"
    columns = {records["name"]: [field["name"] for field in records["field"]] for records in content["recordSet"]}
    assert columns["train"] == [f"train/{name}" for name in ("id", "text", "source", "licence", "metadata", "split")]
    preparation = content["rai:dataPreprocessingProtocol"]
    assert 'filter length: {"min_words":3,"max_words":0}' in preparation
    assert [line for line in preparation if line.startswith("dropped by duplicate: 1 documents")]


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_mlcroissant_validates_the_metadata_and_reads_the_documents(vita: Vita, tmp_path: Path) -> None:
    mlcroissant = pytest.importorskip("mlcroissant")
    write(tmp_path / "a.jsonl", *ROWS)
    options = ("--set", "filters=[]", "--held-out", "2", "--shards", "parquet")
    code, _, err = vita("curate", "a.jsonl", "--out", "clean", *options)
    assert code == 0, err
    dataset = mlcroissant.Dataset(jsonld=tmp_path / "clean" / "croissant.json")
    assert not dataset.metadata.ctx.issues.errors
    texts = {row["train/text"].decode() for row in dataset.records("train")}
    assert texts == {row["text"] for row in parquet_rows(tmp_path / "clean" / "train")} and len(texts) == 8


def test_settings_of_sources_apply_to_all_data_of_the_command(vita: Vita, tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", *ROWS)
    (tmp_path / "b.jsonl").write_text("no JSON\n")
    options = ("--set", "filters=[]", "--held-out", "2", "--set", "on_bad_row=drop", "--set", "rights.opted_out=keep")
    code, _, err = vita("curate", "a.jsonl", "b.jsonl", "--out", "clean", *options)
    assert code == 0, err
    assert [row["reason"] for row in rows(tmp_path / "clean" / "dropped")].count("not_json") == 1
    code, _, err = vita("curate", "clean", "--out", "again", "--set", "filters=[]", "--held-out", "0", "--json")
    assert code == 0, err
    documents = {name: rows(tmp_path / name / "train") for name in ("clean", "again")}
    assert [row["text"] for row in documents["again"]] == [row["text"] for row in documents["clean"]]
    code, _, err = vita("curate", "a.jsonl", "--out", "other", "--set", "on_bad_rows=drop")
    assert code == 2 and "on_bad_rows" in err


def test_unknown_shards_are_refused(vita: Vita, tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", *ROWS)
    code, _, err = vita("curate", "a.jsonl", "--out", "clean", "--shards", "parket")
    assert code == 2 and "did you mean `parquet`" in err


def test_the_end_of_a_single_text_is_held_out(vita: Vita, tmp_path: Path) -> None:
    text = "".join(f"Paragraph {number} of the text.\nIts second line.\n\n" for number in range(200))
    (tmp_path / "input.txt").write_text(text)
    code, _, err = vita("curate", "input.txt", "--out", "clean", "--set", "filters=[]", "--held-out", "0.1")
    assert code == 0, err
    train, held_out = rows(tmp_path / "clean" / "train"), rows(tmp_path / "clean" / "heldout")
    assert "".join(row["text"] for row in (*train, *held_out)) == text
    assert [row["id"] for row in train] == ["input.txt"] and held_out[0]["id"] == "input.txt#end1"
    length = sum(len(row["text"]) for row in held_out)
    assert 0.08 * len(text) < length < 0.12 * len(text) and 2 <= len(held_out) <= 20
    assert all(row["text"].endswith("\n\n") for row in (*train, *held_out)), "the text is cut at paragraphs"


def test_a_text_is_divided_at_the_largest_unit_near_the_cut() -> None:
    text = "Para one.\n\nPara two is here.\n\nPara three."
    assert divide_text(text, 12) == ("Para one.\n\nPara two is here.\n\n", "Para three.")
    assert divide_text("One. Two three.", 10) == ("One. ", "Two three.")
    assert divide_text("word", 2) == ("word", "") and divide_text("", 0) == ("", "")
    assert [len(piece) for piece in cut_pieces("word " * 1000)] == [250] * 20
