"""The text that trains a tokenizer: bounded, even, deterministic, and with the shares of the languages."""

from __future__ import annotations

from collections import Counter

import pytest

from vita.data.tokens.training_sample import sample, sample_rates


def evenly(texts: list[str], limit: int) -> list[str]:
    rates = sample_rates({"": sum(len(text.encode()) for text in texts)}, limit=limit)
    return list(sample((("", text) for text in texts), rates))


def test_a_sample_is_bounded_uniform_and_deterministic() -> None:
    texts = [f"{i:04d} " * 200 for i in range(100)]  # 1,000 bytes each
    pieces = evenly(texts, 20_000)
    assert sum(map(len, pieces)) <= 20_000
    assert pieces == evenly(texts, 20_000)
    assert [sum(int(piece[:4]) // 25 == quarter for piece in pieces) for quarter in range(4)] == [5, 5, 5, 5]


def test_a_sample_of_a_long_text_covers_all_parts() -> None:
    book = "".join(f"line {i:05d} of a long and not very varied book\n" for i in range(20_000))
    text = "".join(evenly([book], len(book) // 10))
    assert len(book) // 11 < len(text) <= len(book) // 10
    assert "line 01" in text and "line 10" in text and "line 19" in text
    assert all(line in book for line in text.splitlines()[:20])


def test_a_sample_limit_above_the_text_gives_the_text() -> None:
    texts = ["one", "two " * 5000, ""]
    assert evenly(texts, 10**6) == [text for text in texts if text]


def test_rates_keep_the_proportions_at_temperature_1() -> None:
    assert sample_rates({"en": 900, "zh": 100}, limit=500) == {"en": 0.5, "zh": 0.5}
    assert sample_rates({"en": 900, "zh": 100}, limit=5000) == {"en": 1.0, "zh": 1.0}


def test_rates_follow_the_root_of_the_sizes_at_temperature_2() -> None:
    # Roots 30 and 10 of 1,000 bytes: shares 750 and 250 bytes.
    rates = sample_rates({"en": 900, "zh": 100}, limit=5000, temperature=2)
    assert rates == {"en": pytest.approx(750 / 900), "zh": pytest.approx(2.5)}


def test_a_rare_language_has_at_most_four_copies_and_the_others_fill_its_share() -> None:
    # Equal shares would be 1,000 bytes each; `yo` has 10 bytes, so 40, and the others 1,480 each.
    rates = sample_rates({"en": 1980, "de": 1010, "yo": 10}, limit=3000, temperature=1e9)
    assert rates["yo"] == 4
    assert rates["en"] * 1980 == pytest.approx(1480, rel=1e-6) == rates["de"] * 1010


def test_pieces_of_a_language_are_repeated_to_its_rate() -> None:
    texts = [("en", f"e{i}") for i in range(10)] + [("zh", f"z{i}") for i in range(4)]
    counts = Counter(sample(texts, {"en": 0.5, "zh": 2.5}))
    assert sum(count for piece, count in counts.items() if piece[0] == "e") == 5
    assert [counts[f"z{i}"] for i in range(4)] == [2, 3, 2, 3]
