"""Quality filters: dropped and kept texts, reasons, and parity of fast and plain counts."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vita.data.content import normalize_text
from vita.data.curation.filters import DEFAULT_FILTERS, FILTERS, FilterChain, FilterUse, filter_settings
from vita.data.curation.page_features import PageFeatures
from vita.data.records import Document
from vita.data.sources.read import Source, documents
from vita.spine.config import Settings, build, canonical, input_paths
from vita.spine.errors import ConfigError, DataError

PROSE = """The harbour lies below the old town. In the morning the boats come back with what the night gave them.
People wait on the stones, some to buy and some to be with those who have been out on the water since dusk.

When the last boat is in, the women who mend the nets sit down along the wall that keeps the sea out of the market.
They talk of the weather and of the price of rope until the sun has dried everything that hangs there.
"""


def page(text: str) -> PageFeatures:
    return PageFeatures(Document("a", text, "test"))


def filter_chain(*uses: Any) -> FilterChain:
    return FilterChain([FilterUse.model_validate(use) for use in uses])


FILTERS_WITH_DEFAULTS = [
    name
    for name in FILTERS.names()
    if not any(field.is_required() for field in filter_settings(name).model_fields.values())
]
"""The filters without required settings."""


def drop_reason(text: str, *uses: Any) -> str | None:
    drop = filter_chain(*(uses or DEFAULT_FILTERS))(page(text))
    return drop[0] if drop else None


def distinct_words(count: int) -> str:
    return " ".join(f"word{chr(97 + number % 26)}{chr(97 + number // 26)}" for number in range(count))


def test_prose_is_kept_by_every_filter() -> None:
    for name in FILTERS_WITH_DEFAULTS:
        assert drop_reason(PROSE, name) is None, name
    assert filter_chain(*DEFAULT_FILTERS)(page(PROSE)) is None


WORDS = distinct_words(120).split()
SENTENCE = "seven wonders of an old world stand along this quiet road today"
DROPPED = {
    "length.short": "The cat sat on the mat.",
    "gopher_quality.mean_word_length": "the and " + "unpronounceableness " * 60,
    "gopher_quality.few_letters": "the and " + "12345 " * 60,
    "gopher_quality.symbols": "the and of # good words " * 12,
    "gopher_quality.bullets": "\n".join(f"- the {word} and some more words" for word in WORDS[:40]),
    "gopher_quality.ellipses": "\n".join(f"the {word} and {' '.join(WORDS[:9])}..." for word in WORDS[:20]),
    "gopher_quality.stop_words": " ".join(WORDS),
    "repetition.lines": "\n".join(WORDS[:6] * 2),
    "repetition.lines_characters": "\n".join([SENTENCE, SENTENCE, *WORDS[:20]]),
    "repetition.paragraphs": "\n\n".join([*WORDS[:2] * 2, "\n".join(WORDS[2:30]), WORDS[30]]),
    "repetition.top_2_words": " ".join(f"extraordinary circumstances {word}" for word in WORDS[:10]),
    "repetition.repeated_5_words": " ".join([SENTENCE, *WORDS[:25], SENTENCE, *WORDS[25:50], SENTENCE]),
    "boilerplate.placeholder": PROSE + "Lorem ipsum dolor sit amet.",
    "c4.curly_bracket": PROSE + "if (x) { return; }",
    "c4.few_sentences": "One is here. Two are there. Three. Four.\nPlease enable JavaScript. It is off.",
    "fineweb.punctuated_lines": "\n".join(f"the {word} has a long line without an end" for word in WORDS[:20]),
    "fineweb.short_lines": "\n".join(f"the {word} is short." for word in WORDS[:20]),
    "fineweb.duplicate_lines": f"{SENTENCE}.\n{' '.join(WORDS[:90])}.\n{SENTENCE}.",
    "fineweb.line_ends": "\n\n\n\n".join(f"extraordinary {word} circumstances." for word in WORDS[:20]),
    "boilerplate.notices": "We have a privacy policy and the terms of use that you have to read.\n" + PROSE,
}  # fmt: skip


@pytest.mark.parametrize("reason", list(DROPPED))
def test_each_rule_drops_its_example(reason: str) -> None:
    assert drop_reason(DROPPED[reason], reason.split(".")[0]) == reason


def test_a_rule_without_limits_of_ngrams_keeps_the_page() -> None:
    text = DROPPED["repetition.repeated_5_words"]
    assert (
        filter_chain({"repetition": {"max_duplicate_ngram_ratio": [], "max_top_ngram_ratio": []}})(page(text)) is None
    )


@pytest.mark.parametrize(
    ("use", "message"),
    [
        ({"length": {"min_words": -1}}, "filter length.min_words: expected greater than or equal to 0, got -1"),
        ({"gopher_quality": {"stop_words": [""]}}, "expected one word without white space, got ''"),
        ({"gopher_quality": {"stop_words": ["of the"]}}, "expected one word without white space, got 'of the'"),
        ({"classifier": {"model": "q", "minimum": 5}}, "classifier.minimum: expected less than or equal to 1, got 5"),
        ({"repetition": {"max_duplicate_line_ratio": -1}}, "max_duplicate_line_ratio: expected greater than or equal"),
        ({"repetition": {"max_duplicate_ngram_ratio": [0.1, 3]}}, "max_duplicate_ngram_ratio.1: expected less than"),
        ({"fineweb": {"max_line_word_ratio": -0.1}}, "max_line_word_ratio: expected greater than or equal to 0"),
        ({"word_list": {"file": "a", "max_share": 2}}, "max_share: expected less than or equal to 1, got 2"),
        ({"gopher_quality": {"min_mean_word_length": 20}}, "expected at most max_mean_word_length .10.0., got 20"),
        ({"length": {"max_words": 20}}, "length.min_words: expected at most max_words .20., got 50"),
    ],
)
def test_an_unusable_setting_of_a_filter_is_refused(use: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        filter_chain(use)


def test_the_reason_gives_the_value_and_the_limit() -> None:
    assert filter_chain("length")(page("one two three")) == ("length.short", "3 words, under 50")
    # 1 of 4 lines is longer than 30 characters, and 3 of 4 end with punctuation
    lines = "Short.\nAlso short.\nNot a long line\nThis line is longer than thirty characters."
    assert filter_chain("fineweb")(page(lines)) == ("fineweb.short_lines", "0.75 of the lines, over 0.67")
    assert filter_chain("c4")(page(lines)) == ("c4.few_sentences", "1 sentences, under 5")


def test_the_share_of_the_most_frequent_ngram_counts_characters_in_every_script() -> None:
    for ngram, filler in (("aaaa bbbb cccc dddd", "word"), ("항구의책 임자는의 회에편지 를써서겨", "가나다라")):
        # 2 runs of 16 characters, and 42 other words of 4 characters: 2 * 16 / (4 * 50) = 0.16, which is not over 0.16
        filler_words = [f"{filler[:2]}{chr(97 + number % 26)}{chr(97 + number // 26)}" for number in range(42)]
        text_at_limit = " ".join([ngram, *filler_words, ngram])
        assert drop_reason(text_at_limit, "repetition") is None
        drop = filter_chain("repetition")(page(" ".join([ngram, *filler_words[:-1], ngram])))  # 32 / 196
        assert drop == ("repetition.top_4_words", "0.16 of the characters, over 0.16")


def test_markdown_headings_are_not_counted_as_symbols() -> None:
    text = "\n".join(f"## The {word} and that of the others" for word in distinct_words(30).split())
    assert drop_reason(text, "gopher_quality") is None


def test_settings_loosen_a_rule() -> None:
    short = "The cat sat on the mat and the dog lay by it."
    assert drop_reason(short, {"length": {"min_words": 5}}) is None
    assert drop_reason(short, {"length": {"max_words": 6, "min_words": 0}}) == "length.long"
    assert drop_reason(distinct_words(80), {"gopher_quality": {"min_stop_words": 0}}) is None


def test_filters_are_parsed_with_their_settings() -> None:
    class Config(Settings):
        filters: tuple[FilterUse, ...] = ()

    config = build(Config, {"filters": ["repetition", {"length": {"min_words": 5}}, {"boilerplate": None}]}, where="c")
    assert [use.name for use in config.filters] == ["repetition", "length", "boilerplate"]
    assert canonical(config)["filters"][1] == {"name": "length", "settings": {"min_words": 5, "max_words": 0}}
    with pytest.raises(ConfigError, match=r"`lenght` is not known here; did you mean `length`\?"):
        build(Config, {"filters": ["lenght"]}, where="c")
    with pytest.raises(ConfigError, match=r"filter length: `min_word` is not known here; did you mean `min_words`\?"):
        build(Config, {"filters": [{"length": {"min_word": 5}}]}, where="c")
    with pytest.raises(ConfigError, match=r"filter length.min_words: expected a valid integer"):
        build(Config, {"filters": [{"length": {"min_words": "few"}}]}, where="c")
    for name, former, present in (
        ("length", "minimum_words", "min_words"),
        ("gopher_quality", "most_symbols", "max_symbol_ratio"),
        ("repetition", "most_top", "max_top_ngram_ratio"),
        ("boilerplate", "most", "max_notice_ratio"),
    ):
        with pytest.raises(ConfigError, match=rf"{former}.*write `{present}` instead"):
            build(Config, {"filters": [{name: {former: 1}}]}, where="c")


@pytest.mark.parametrize(
    ("language", "words", "reason"),
    [
        ("de", "der und", None),
        ("de", "the of", None),  # technical English is sometimes taken for another language
        ("de", "der de", "gopher_quality.stop_words"),
        ("fr", "der und", "gopher_quality.stop_words"),
        ("la", "", None),  # a language without a list has no rule
        ("unknown", "der und", "gopher_quality.stop_words"),
        ("unknown", "the of", None),
    ],
)
def test_stop_words_are_those_of_the_identified_language(language: str, words: str, reason: str | None) -> None:
    document = Document("a", f"{distinct_words(80)} {words}", "s", None, {"language": language})
    verdict = filter_chain("gopher_quality")(PageFeatures(document))
    assert (verdict[0] if verdict else None) == reason


def test_named_stop_words_apply_to_every_language() -> None:
    chain = filter_chain({"gopher_quality": {"stop_words": ["worda", "wordb"], "min_stop_words": 2}})
    assert chain(PageFeatures(Document("a", distinct_words(80), "s", None, {"language": "de"})))
    document = Document("a", f"{distinct_words(80)} worda wordb", "s", None, {"language": "de"})
    assert chain(PageFeatures(document)) is None


@pytest.mark.slow
@pytest.mark.parametrize("name", FILTERS_WITH_DEFAULTS)
@pytest.mark.parametrize("text", ["", "x", "\n\n", "the", "# " * 300, "漢字" * 100, PROSE, PROSE * 3])
def test_every_filter_has_defaults_and_takes_any_text(name: str, text: str) -> None:
    filter_settings(name)()
    reason = FILTERS[name](page(text))
    assert reason is None or (reason.rule.isidentifier() and reason.detail)


# -- parity with plain n-gram counts


def plain_top(words: list[str], n: int) -> float:
    ngrams = [tuple(words[start : start + n]) for start in range(len(words) - n + 1)]
    counts = Counter(ngrams)
    max_count = max(counts.values(), default=0)
    if max_count < 2:
        return 0.0
    max_length = max(sum(map(len, ngram)) for ngram, count in counts.items() if count == max_count)
    return max_count * max_length / sum(map(len, words))


def plain_repeated(words: list[str], n: int) -> float:
    seen_ngrams, covered = set(), np.zeros(len(words), bool)
    for start in range(len(words) - n + 1):
        ngram = tuple(words[start : start + n])
        covered[start : start + n] |= ngram in seen_ngrams
        seen_ngrams.add(ngram)
    return sum(len(word) for word, is_covered in zip(words, covered, strict=True) if is_covered) / sum(map(len, words))


@settings(deadline=None)
@given(words=st.lists(st.sampled_from(["a", "bb", "ccc", "dddd", "eeeeeeeee"]), min_size=1, max_size=40))
def test_the_repetition_filter_equals_plain_counting(words: list[str]) -> None:
    disabled_limits = {
        "max_duplicate_line_ratio": 1,
        "max_duplicate_line_char_ratio": 1,
        "max_duplicate_paragraph_ratio": 1,
        "max_duplicate_paragraph_char_ratio": 1,
    }
    top, repeated = (0.20, 0.18, 0.16), (0.15, 0.14, 0.13, 0.12, 0.11, 0.10)
    expected = next(
        (f"top_{n}_words" for n, limit in enumerate(top, 2) if plain_top(words, n) > limit),
        next((f"repeated_{n}_words" for n, limit in enumerate(repeated, 5) if plain_repeated(words, n) > limit), None),
    )
    reason = FILTERS["repetition"](
        page(" ".join(words)), **disabled_limits, max_top_ngram_ratio=top, max_duplicate_ngram_ratio=repeated
    )
    assert (reason.rule if reason else None) == expected


# -- the default filters on a labelled corpus


@pytest.mark.slow
def test_the_defaults_drop_junk_and_keep_natural_text(shared: Path) -> None:
    with gzip.open(shared / "curate" / "truth.jsonl.gz", "rt") as lines:
        kinds = {row["id"]: row["kind"] for row in map(json.loads, lines)}
    defaults = filter_chain(*DEFAULT_FILTERS)
    counts: Counter[tuple[str, bool]] = Counter()
    for part in ("part-00002", "part-00005"):
        for document in documents(Source.model_validate(str(shared / "curate" / f"{part}.jsonl.zst"))):
            kind = kinds[document.id]
            sort = "junk" if kind.startswith("junk_") else "other" if kind == "lang" else "natural"
            counts[sort, defaults(PageFeatures(document, normalize_text(document.text)[1])) is None] += 1
    natural_kept = counts["natural", True] / (counts["natural", True] + counts["natural", False])
    junk_dropped = counts["junk", False] / (counts["junk", True] + counts["junk", False])
    assert natural_kept >= 0.97
    assert junk_dropped >= 0.97


@pytest.mark.slow
def test_a_list_of_urls_drops_or_keeps_domains_hosts_and_prefixes(tmp_path: Path) -> None:
    urls = tmp_path / "urls.txt"
    urls.write_text("# blocked\n\nexample.com\n*.foo.org\nhttps://bar.net/blog/\nbücher.de\n", encoding="utf-8")

    def drop(url: str | None, action: str = "drop", field: str = "url") -> tuple[str, str] | None:
        document = Document("a", PROSE, "test", metadata={} if url is None else {field: url})
        return filter_chain({"url_list": {"file": str(urls), "action": action}})(PageFeatures(document))

    listed = ["https://ads.EXAMPLE.com:80/x", "http://example.com", "http://foo.org/", "http://bar.net/blog/a?b",
              "https://xn--bcher-kva.de/"]  # fmt: skip
    others = [
        "http://notexample.com/",
        "http://example.com.evil.org/",
        "http://bar.net/blogger",
        "http://x.bar.net/blog/",
    ]
    for url in listed:
        assert (drop(url) or ("",))[0] == "url_list.listed" and drop(url, "keep") is None, url
    for url in [*others, "http://[bad"]:
        assert drop(url) is None and drop(url, "keep") == ("url_list.not_listed", url)
    assert drop("http://a.example.com/b") == ("url_list.listed", "http://a.example.com/b matches `example.com`")
    assert drop("http://example.com", field="source_url") and drop("http://example.com", field="WARC-Target-URI")
    assert drop(None) is None and (drop(None, "keep") or ("",))[0] == "url_list.no_url"


def test_a_list_of_words_matches_whole_words_and_phrases(tmp_path: Path) -> None:
    words = tmp_path / "words.txt"
    words.write_text("Casino\nget rich\nget rich now\nहिन्दी\n赌场\n", encoding="utf-8")

    def drop(text: str, **limits: Any) -> tuple[str, str] | None:
        return filter_chain({"word_list": {"file": str(words), **limits}})(page(text))

    use = FilterUse.model_validate({"word_list": {"file": str(words)}})
    assert input_paths(use) == [str(words)], "the content of the file is part of the run key"
    assert drop("Casinos and a cassino, to get very rich.") is None
    assert drop("The CASINO's door. Get-rich NOW!") == (
        "word_list.count", "2 matches, over 0: `casino`, `get rich now`",
    )  # fmt: skip
    # Text outside of ASCII is divided into the same words.
    assert drop("The “CASINO”… Get-rich NOW!") == ("word_list.count", "2 matches, over 0: `casino`, `get rich now`")
    assert drop("हिन्दी भाषा") and drop("हिन्दीक भाषा") is None
    assert drop("他去赌场了") and drop("他去了") is None
    assert drop("casino " * 2, max_count=2) is None and drop("casino " * 3, max_count=2)
    tenth = "casino " + "word " * 9
    assert drop(tenth, max_share=0.1) is None
    assert drop(tenth, max_share=0.09) == ("word_list.share", "0.1000 of the words, over 0.09: `casino`")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("url_list", "# nothing\n\n", "expected an entry per line, got a file without entries"),
        ("url_list", "example.com\nno domain\n", "urls.txt:2: expected a domain, a host or the beginning of a URL"),
        ("word_list", "word\n!?\n", "urls.txt:2: expected a word or phrase"),
        ("word_list", None, "expected a text file with an entry per line, got no such file"),
    ],
)
def test_an_unusable_list_is_refused(tmp_path: Path, name: str, content: str | None, message: str) -> None:
    file = tmp_path / "urls.txt"
    if content is not None:
        file.write_text(content)
    with pytest.raises(DataError, match=message.replace("?", r"\?")):
        filter_chain({name: {"file": str(file), **({"action": "keep"} if name == "url_list" else {})}})(
            PageFeatures(Document("a", "A word.", "test", metadata={"url": "http://a.org"}))
        )


def test_every_number_of_a_filter_has_a_range() -> None:
    for name in FILTERS:
        for setting, schema in filter_settings(name).model_json_schema()["properties"].items():
            for part in (schema, schema.get("items", {}), *schema.get("anyOf", ())):
                assert part.get("type") not in ("integer", "number") or "minimum" in part, f"{name}.{setting}"
