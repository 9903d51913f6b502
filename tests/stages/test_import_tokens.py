"""The stage `import_tokens`: an unchanged stream, counts, refusals, and erased documents."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.test_cli import Vita
from tests.cli.test_cli import vita as vita
from vita.data.tokens.shards import Shards
from vita.data.tokens.token_files import write_token_file
from vita.data.tokens.tokenizer import Tokenizer
from vita.testing import byte_tokenizer

DOCUMENT = 256
TRAIN = ([*b"end", DOCUMENT, *b"first"], [*b" part", DOCUMENT, *b"second"])
VALIDATION = [DOCUMENT, *b"held out"]


def write_files(folder: Path, *, train: tuple[list[int], ...] = TRAIN, validation: list[int] = VALIDATION) -> None:
    folder.mkdir(parents=True)
    for number, tokens in enumerate(train, 1):
        write_token_file(folder / f"train_{number}.bin", tokens)
    write_token_file(folder / "val_0.bin", validation)


def words(**settings: Any) -> tuple[str, ...]:
    values = {"train": "files/train_*.bin", "validation": "files/val_0.bin", "tokenizer": "tokenizer", **settings}
    options = [word for name, value in values.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    return ("import-tokens", "--life", "x", *options)


@pytest.fixture
def files(vita: Vita, tmp_path: Path) -> Path:
    byte_tokenizer().save(tmp_path / "tokenizer")
    write_files(tmp_path / "files")
    return tmp_path / "files"


def streams(folder: Path) -> dict[str, list[int]]:
    shards = {split: Shards.open(folder / split) for split in ("train", "heldout")}
    return {split: opened.read(0, opened.tokens).tolist() for split, opened in shards.items()}


def test_the_streams_are_those_of_the_files(vita: Vita, files: Path) -> None:
    settings = {"vocabulary": 320, "validation_tokens": 5, "source": "web", "licence": "CC0", "shard_tokens": 7}
    code, out, err = vita(*words(**settings), "--json")
    assert code == 0, err
    artifact = json.loads(out)
    folder = Path(artifact["folder"])
    # 5 predicted validation tokens, and the first one, which is not predicted
    assert streams(folder) == {"train": [*TRAIN[0], *TRAIN[1]], "heldout": [DOCUMENT, *b"held "]}
    shards = Shards.open(folder / "train")
    shards.verify()
    assert (shards.vocabulary, shards.document_token, shards.documents) == (320, DOCUMENT, 4)
    assert {(span.id, span.source, span.licence) for span in shards.documents_between(0, shards.tokens)} == {
        (f"train_{file}.bin#{number}", "web", "CC0") for file in (1, 2) for number in (0, 1)
    }
    tokenizer = Tokenizer.load(folder / "tokenizer")
    assert shards.tokenizer == tokenizer.digest == byte_tokenizer().digest
    assert artifact["facts"] == {
        "vocabulary": 320, "train_tokens": 21, "heldout_tokens": 6, "documents": 4, "bytes_per_token": 1.0,
        "sources": {"web": {"documents": 4, "tokens": 21}}, "licences": ["CC0"],
    }  # fmt: skip
    details = json.loads((folder / "report.json").read_text())["details"]
    # the letters of the four parts, and the document token: e n d f i r s t p a c o and the space
    assert details["tokenizer"]["used"] == 14 and details["train"]["bytes"] == 19
    assert set(details["files"]) == {"train_1.bin", "train_2.bin", "val_0.bin"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"validation": "files/val_1.bin"}, "files/val_1.bin: no such file"),
        ({"train": "files/*.bin"}, "val_0.bin is the validation file val_0.bin; leave the validation files out"),
        ({"train": "files/val_0.bin"}, "`train` and `validation` are the same files"),
        ({"validation_tokens": 9}, "expected at least 10 tokens, of which the first is not predicted, got 9 tokens"),
        ({"vocabulary": 258}, "expected at least 259, the tokens of the tokenizer, got 258"),
        ({"tokenizer": "nowhere"}, "nowhere: there is no such model"),
        ({"train": "other/train_1.bin"}, "token 1: expected tokens below the vocabulary of 259, got 300"),
        ({"train": "other/train_2.bin"}, "the document token 256 does not occur; the tokenizer is not that of the"),
        ({"train": "tokenizer/tokenizer.json"}, "the magic number 20240520"),
        ({"train": "*/train_1.bin"}, "several files have the name train_1.bin; rename a file"),
    ],
)
def test_wrong_files_and_settings_are_refused(
    vita: Vita, files: Path, tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    write_files(tmp_path / "other", train=([DOCUMENT, 300], [1, 2, 3]))
    code, _, err = vita(*words(**settings))
    assert code in (2, 3, 6) and message in err and "Traceback" not in err


@pytest.mark.slow
def test_an_imported_document_is_traced_and_left_out_after_its_erasure(vita: Vita, files: Path) -> None:
    assert vita(*words(source="web"))[0] == 0
    trace = json.loads(vita("trace-document", "train_2.bin#1", "--json")[1])
    assert [(row["kind"], row["use"], row["source"]) for row in trace["holders"]] == [("tokens", "trained on", "web")]
    [row] = json.loads(vita("trace-document", "val_0.bin#0", "--json")[1])["holders"]
    assert row["use"] == "held out"
    assert vita("forget", "train_2.bin#1", "--by", "Ada", "--reason", "asked")[0] == 0
    code, out, err = vita(*words(source="web"), "--json")
    assert code == 0, err
    assert streams(Path(json.loads(out)["folder"]))["train"] == [*TRAIN[0], *b" part"]
    assert vita("forget", "--source", "web", "--by", "Ada")[0] == 0
    code, _, err = vita(*words(source="web"))
    assert code == 3 and "no document is left: all were erased" in err
