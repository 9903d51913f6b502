"""Repair of encodings: wrong decodings are reverted, and correct text stays the same."""

from __future__ import annotations

import pytest

from vita.data.curation.encoding_repair import repair_encoding

TEXT = "Naïve résumés – “the end” … à l’Étoile, Größe, 5 °C."


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "mac_roman", "cp437"])
def test_utf_8_that_was_read_in_another_encoding_is_repaired(encoding: str) -> None:
    text = TEXT if encoding == "latin-1" else "Naïve résumés, Größe, à côté"
    assert repair_encoding(text.encode().decode(encoding)) == text


def test_a_word_in_correct_text_is_repaired() -> None:
    assert repair_encoding("He played the rÃ´le of a “hero”.") == "He played the rôle of a “hero”."


@pytest.mark.parametrize(
    "text",
    [
        TEXT,
        "Plain ASCII, 'quoted' & <b>escaped</b> &amp;",
        "ﬁne ligatures, ｆｕｌｌ ｗｉｄｔｈ, “curly” ‘quotes’",
        "Ça va, AÇÃO, VOCÊ É, Ñandú, ÀÉÎ, Ã is a letter",
        "Привет, мир! Это русский текст.",
        "中文文字没有空格。日本語のテキスト。",
        "x̂ = √2 · ∑ αᵢ, ≥ 5 µm",
    ],
)
def test_correct_text_stays(text: str) -> None:
    assert repair_encoding(text) is text
