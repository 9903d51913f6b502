"""The benchmark of curation: the larger input has no copies of the documents, and scores are computed by hand."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import zstandard

from bench.curation import multiply
from bench.curation_scores import read_rows, score, truth_of


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    if path.suffix == ".zst":
        data = zstandard.compress(data)
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def test_copies_have_other_words_of_the_same_length(tmp_path: Path) -> None:
    texts = ["The quick brown foxes jumped with speed.", "Under these great hills, water flows down."]
    write(tmp_path / "in" / "a.jsonl", [{"id": str(number), "text": text} for number, text in enumerate(texts)])
    multiply(tmp_path / "in", tmp_path / "out", copies=2)
    first, second = (list(read_rows(tmp_path / "out" / f"{copy}-a.jsonl")) for copy in (0, 1))
    assert [row["text"] for row in first] == texts and [row["id"] for row in second] == ["0-1", "1-1"]
    for text, row in zip(texts, second, strict=True):
        words, other = text.split(), row["text"].split()
        assert list(map(len, words)) == list(map(len, other))
        assert sum(a != b for a, b in zip(words, other, strict=True)) >= 3
    assert "with" in second[0]["text"]  # a stop word


def test_scores_of_a_small_corpus(tmp_path: Path) -> None:
    truth = [
        {"id": "clean", "kind": "base"},
        {"id": "lost", "kind": "base"},
        {"id": "junk", "kind": "junk_lines"},
        {"id": "copy", "kind": "edit_5", "group": "clean", "parent": "clean", "jaccard": 0.9},
        {"id": "mail", "kind": "pii", "pii": [["email", "ann@mail.net"], ["phone", "+49 30 901820"]]},
        {"id": "item", "kind": "contam_label"},
    ]
    write(tmp_path / "truth.jsonl.gz", truth)
    write(tmp_path / "in" / "a.jsonl", [{"id": row["id"], "text": "x", "source": "web"} for row in truth])
    kept = [
        {"id": "clean", "text": "x", "metadata": {"language": "en"}},
        {"id": "mail", "text": "<EMAIL> +49 30 901820", "metadata": {"language": "en"}},
    ]
    write(tmp_path / "corpus" / "train" / "0.jsonl.zst", kept)
    (tmp_path / "corpus" / "heldout").mkdir()
    drops = [
        {"id": "lost", "reason": "length.short"},
        {"id": "junk", "reason": "repetition.lines"},
        {"id": "copy", "reason": "near_duplicate", "repeats": {"id": "clean"}},
        {"id": "item", "reason": "contaminated"},
    ]
    write(tmp_path / "corpus" / "drops.jsonl.zst", drops)
    figures = score(truth_of(tmp_path), tmp_path / "corpus", tmp_path / "in")
    values = {figure.figure.removeprefix("curation, "): figure.value for figure in figures}
    assert values["junk dropped"] == values["contaminated documents dropped"] == 1
    assert values["copies dropped, Jaccard index from 0.75"] == 1
    assert values["personal data masked, email"] == 1 and values["personal data masked, phone"] == 0
    assert values["natural documents dropped by a filter, web"] == 0.5
    assert values["clean documents dropped as contaminated"] == values["clean documents with <EMAIL>"] == 0


def test_the_benchmark_is_skipped_without_a_corpus() -> None:
    process = subprocess.run([sys.executable, "-m", "bench.curation"], capture_output=True, text=True, check=True)
    assert process.stderr.startswith("# skipped: no corpus") and not process.stdout
