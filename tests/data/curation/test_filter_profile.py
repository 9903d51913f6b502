"""Thresholds of filters are relaxed by no more than reference documents need, with values worked out by hand."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from tests.cli.corpora import write
from vita.data.curation.filter_profile import FilterProfile, changed_settings, relax_filter, sample_pages
from vita.data.curation.filters import FilterUse, upper_limit
from vita.data.curation.page_features import PageFeatures
from vita.data.curation.rules import CurationRules
from vita.data.records import Document
from vita.data.sources.read import Source
from vita.spine.config import build

RULES = build(CurationRules, {}, where="rules")


def pages_of(*texts: str) -> list[PageFeatures]:
    return [
        PageFeatures(Document(str(number), text, "test"), text.encode()) for number, text in enumerate(texts)
    ]  # fmt: skip


def words(count: int) -> str:
    return " ".join(f"word{number}" for number in range(count))


@pytest.mark.slow
@pytest.mark.parametrize(("allowed", "min_words"), [(0, 30), (1, 40), (2, 45), (3, 50)])
def test_the_minimum_of_words_is_lowered_to_the_shortest_reference_that_must_stay(allowed: int, min_words: int) -> None:
    use = FilterUse(name="length")
    references = pages_of(*map(words, (30, 40, 45, 60)))
    relaxed = relax_filter(use, references, allowed=allowed)
    assert relaxed.settings == {"min_words": min_words, "max_words": 0}
    assert FilterProfile.of(relaxed, references).dropped <= allowed


@pytest.mark.slow
def test_only_the_rules_that_drop_references_are_relaxed() -> None:
    use = FilterUse(name="gopher_quality", settings={"min_stop_words": 0})
    # 4 of 10 words have a `#`; the maximum is 0.1. No other rule drops this text.
    references = pages_of(words(6) + " #a #b #c #d", words(10))
    profile = FilterProfile.of(use, references)
    assert (profile.pages, profile.dropped, profile.rules) == (2, 1, {"symbols": 1})
    relaxed = relax_filter(use, references, allowed=0)
    assert changed_settings(use, relaxed) == [
        {"filter": "gopher_quality", "setting": "max_symbol_ratio", "before": 0.1, "after": 0.4}
    ]


def test_a_filter_stays_as_it_is_if_no_threshold_saves_a_reference() -> None:
    use = FilterUse(name="gopher_quality")
    assert relax_filter(use, pages_of(""), allowed=0) == use  # the rule `no_words` has no threshold


def test_a_sample_does_not_depend_on_the_order_of_the_documents(tmp_path: Path) -> None:
    rows = [{"id": str(number), "text": words(number + 1)} for number in range(30)]
    forward = Source(path=write(tmp_path / "a" / "t.jsonl", *rows).as_posix())  # pyright: ignore[reportArgumentType]
    backward = Source(path=write(tmp_path / "b" / "t.jsonl", *rows[::-1]).as_posix())  # pyright: ignore[reportArgumentType]
    samples = [[page.document.id for page in sample_pages([source], RULES, limit=7)] for source in (forward, backward)]
    assert samples[0] == samples[1] and len(samples[0]) == 7
    assert len(sample_pages([forward], RULES, limit=100)) == 30


@pytest.mark.slow
def test_a_share_is_not_raised_above_one() -> None:
    assert upper_limit("word_list", "max_share") == 1 and upper_limit("repetition", "max_duplicate_ngram_ratio") == 1
    assert upper_limit("length", "max_words") == math.inf
    bullets = pages_of("\n".join(f"- {words(9)} the one of it {number}" for number in range(60)))
    use = FilterUse(name="gopher_quality", settings={"max_bullet_line_ratio": 0.9})
    relaxed = relax_filter(use, bullets, allowed=0)
    assert relaxed.settings == {**use.settings, "max_bullet_line_ratio": 1.0}
