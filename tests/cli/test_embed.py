"""The command `vita embed`: embeddings in files, nearest tokens, and a word in different sentences."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.cli.models import Vita, command_runner, save_chat_model
from vita.infer.text_model import TextModel

TEXTS = ["a cat on the bank", "the bank of a river", "money"]


@pytest.fixture
def vita(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Vita:
    monkeypatch.chdir(tmp_path)
    save_chat_model(tmp_path / "model")
    save_chat_model(tmp_path / "other", seed=1)
    return command_runner(capsys)


@pytest.mark.slow
def test_embeddings_of_texts_and_files_are_written_in_three_formats(vita: Vita, tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS[1:]) + "\n")
    expected = TextModel.open(tmp_path / "model").embed(TEXTS).numpy()
    for name in ("out.jsonl", "out.npy", "out.safetensors"):
        code, out, err = vita("embed", "model", TEXTS[0], "--file", "texts.txt", "--output", name)
        assert code == 0 and "3 embeddings of 32 numbers" in " ".join(out.split()), err
    rows = [json.loads(row) for row in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["text"] for row in rows] == TEXTS
    np.testing.assert_allclose([row["embedding"] for row in rows], expected, atol=1e-6)
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), expected, atol=1e-6)
    np.testing.assert_allclose(load_file(tmp_path / "out.safetensors")["embeddings"], expected, atol=1e-6)
    code, out, _ = vita("embed", "model", *TEXTS, "--pooling", "last", "--dimensions", "4", "--json")
    document = json.loads(out)
    assert code == 0 and document["pooling"] == "last" and np.array(document["embeddings"]).shape == (3, 4)


@pytest.mark.slow
def test_a_word_is_compared_between_sentences_and_with_other_tokens(vita: Vita) -> None:
    code, out, _ = vita("embed", "model", *TEXTS[:2], "--word", "bank", "--json")
    cosines = json.loads(out)["cosines"]
    assert code == 0 and cosines[0][0] == pytest.approx(1.0, abs=1e-3) and -1 <= cosines[0][1] < 0.999
    code, out, _ = vita("embed", "model", "--neighbors", "b", "--before", "other", "--top", "3", "--json")
    neighbours = json.loads(out)["neighbors"]
    values = [row["cosine"] for row in neighbours["model"]]
    assert code == 0 and values == sorted(values, reverse=True) and len(values) == 3
    assert neighbours["model"] != neighbours["before"] and all(row["token"] != "b" for row in neighbours["model"])
    code, out, _ = vita("embed", "model", "--neighbors", "b", "--before", "other", "--top", "3")
    assert code == 0 and "model: token" in out and "before: token" in out


@pytest.mark.slow
def test_mistakes_are_refused_with_the_reason(vita: Vita) -> None:
    for words, message in {
        (): "expected texts, `--file` or `--neighbors`",
        ("text", "--output", "out.csv"): "--output: expected a file ending in .jsonl",
        ("text", "--pooling", "max"): "--pooling: expected one of cls, mean, last",
        ("text", "--dimensions", "64"): "dimensions: expected 1 to 32",
        ("no such word", "--word", "cat"): "sentences that contain `cat`",
        ("text", "--before", "other"): "--before: requires `--neighbors`",
    }.items():
        code, out, err = vita("embed", "model", *words)
        assert code in (2, 3) and message in " ".join(err.split()) and not out, (words, err)
