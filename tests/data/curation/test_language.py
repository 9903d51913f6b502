"""Language identification: whole texts are identified, short ones are unknown, and unknown codes are refused."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import orjson
import pytest
import zstandard

from vita.data.curation.language import identify_language, supported_languages


def test_languages_of_a_corpus_with_known_truth(shared: Path) -> None:
    folder = shared / "curate"
    with gzip.open(folder / "truth.jsonl.gz", "rt") as file:
        truth = {row["id"]: row["lang"] for row in map(json.loads, file) if row["kind"] == "lang"}
    correct = {"en": 0, "other": 0}
    counts = {"en": 0, "other": 0}
    for part in sorted(folder.glob("part-*.jsonl.zst")):
        data = zstandard.ZstdDecompressor().stream_reader(part.read_bytes()).read()
        for number, row in enumerate(map(orjson.loads, data.splitlines())):
            if row["id"] in truth or number % 20 == 0:  # the other documents are English
                group = "other" if row["id"] in truth else "en"
                counts[group] += 1
                correct[group] += identify_language(row["text"]) == truth.get(row["id"], "en")
    assert counts["other"] == 177 and correct["other"] / counts["other"] > 0.95
    assert counts["en"] > 700 and correct["en"] / counts["en"] > 0.93  # some are gibberish


@pytest.mark.parametrize("text", ["", "Das ist kurz.", "1 2 3 " * 100])
def test_a_text_with_too_little_evidence_is_unknown(text: str) -> None:
    assert identify_language(text) == "unknown"


def test_major_languages_are_supported() -> None:
    assert {"ar", "de", "en", "es", "fr", "hi", "ja", "ko", "pt", "ru", "zh"} <= set(supported_languages())
