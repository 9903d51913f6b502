"""Language identification: whole texts are identified, short ones are unknown, and unknown codes are refused."""

from __future__ import annotations

import gzip
import json
import random
import string
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest
import zstandard

from vita.data.curation import language
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


_TEXTS = {
    "de": "Der Hund lief durch den Park und bellte die Vögel an, die auf dem Baum saßen. Danach gingen wir nach Hause.",
    "en": "The dog ran through the park and barked at the birds that were sitting in the tree. Then we went home.",
    "ru": "Собака бегала по парку и лаяла на птиц, сидевших на дереве. Потом мы пошли домой и вместе выпили кофе.",
    "ja": "犬は公園を走り回り、木に止まっている鳥に吠えました。その後、私たちは家に帰ってコーヒーを飲みました。" * 2,
    "hi": "कुत्ता पार्क में दौड़ रहा था और पेड़ पर बैठे पक्षियों पर भौंक रहा था। फिर हम घर गए और चाय पी ली और खाना भी खाया।",
}


@pytest.mark.parametrize("name", ["de", "en", "ru"])
@pytest.mark.parametrize("convert", [str.upper, str.title])
def test_text_in_capitals_has_its_language(name: str, convert: Callable[[str], str]) -> None:
    text = _TEXTS[name] * 3
    assert identify_language(convert(text)) == identify_language(text) == name


def test_a_language_needs_letters_of_its_script(monkeypatch: pytest.MonkeyPatch) -> None:
    ranking = [("zh", 1), ("ru", 2), ("hi", 3), ("ja", 4), ("en", 5)]
    calls: list[int] = []

    def detector(text: str, n_results: int = 1) -> object:
        calls.append(n_results)
        return ranking[0] if n_results == 1 else ranking

    monkeypatch.setattr(language, "_detector", lambda: detector)
    expected = {"en": "en", "de": "en", "ru": "ru", "ja": "zh", "hi": "hi"}  # the Japanese text has Chinese characters
    assert {name: identify_language(text * 3) for name, text in _TEXTS.items()} == expected
    assert calls.count(1) == 5
    ranking.pop()
    assert identify_language(_TEXTS["en"]) == "unknown"


def test_codes_in_capitals_have_no_chinese() -> None:
    generator = random.Random(1)
    codes = ["".join(generator.choices(string.ascii_uppercase + string.digits, k=400)) for _ in range(20)]
    assert not {"zh", "ja", "ko"} & set(map(identify_language, codes))


def test_major_languages_are_supported() -> None:
    assert {"ar", "de", "en", "es", "fr", "hi", "ja", "ko", "pt", "ru", "zh"} <= set(supported_languages())
