"""Texts on which two tokenizers are compared: scripts, numbers, blanks, line ends, signs, emoji and odd code points."""

from __future__ import annotations

from functools import cache

_TEXTS = (
    "The quick brown fox jumps over the lazy dog.",
    "It's, I'LL, we've, you'RE, he'd, I'm; don't 'quote' this.",
    "naïve café Zürich Ångström œuvre",
    "Привет, мир! Съешь ещё этих булок.",
    "Καλημέρα κόσμε",
    "שלום עולם",
    "مرحبا بالعالم",
    "नमस्ते दुनिया",
    "สวัสดีชาวโลก",
    "こんにちは世界。カタカナとひらがな",
    "你好，世界！汉字测试",
    "안녕하세요 세계",
    "ქართული ენა",
    "Հայերեն",
    "አማርኛ",
    "தமிழ் மொழி",
    "বাংলা ভাষা",
    "1",
    "12",
    "123",
    "1234567890",
    "3.14159, 1,000,000 and 0x1F",
    "v2.0.1 on 2026-11-28 at 13:45",
    "½ ² Ⅷ ٣٤٥ १२३ 一二三",
    " leading",
    "trailing ",
    "two  blanks",
    "   three",
    "a    b     c",
    "tab\tand\t\ttabs",
    "line\nbreak\n\nparagraph\n\n\n",
    "CR LF\r\nand CR\rand LF\n",
    " \n \n  x",
    "\n\n  indented\n\tcode",
    "def f(x):\n    return x**2 + 1  # comment\n",
    "<html><body class='a'>&amp;</body></html>",
    "a@b.co, https://x.org/?q=1&r=2#s",
    "!!! ... ??? --- === ((())) [[]] {{}} \\ / | ~ ` ^ %",
    "😀 👩‍👩‍👧‍👦 🏳️‍🌈 🇩🇪 👍🏽",
    "e\u0301 a\u0308 o\u0302",
    "zero\u200bwidth\u200djoiner\ufeffmark",
    "\u00a0no-break\u2003em\u3000ideographic",
    "\u0378\u0379 unassigned \U000e0080",
    "\ufffd \ufffe \U0010ffff",
    "\x00\x01\x1f\x7f",
    "𝕳𝖊𝖑𝖑𝖔 ﬁ ﬂ ①②③",
    "camelCaseWord ALLCAPS MixedUPWords snake_case kebab-case",
    "x" * 300,
    " " * 40,
    "ab" * 200,
    "9" * 40,
)


@cache
def probe_texts() -> tuple[str, ...]:
    """Return texts of all kinds, among them one of every block of 256 code points of the first plane."""
    blocks = []
    for start in range(0, 0x10000, 0x100):
        if not 0xD800 <= start < 0xE000:
            blocks.append(" ".join(chr(code) for code in range(start, start + 0x100, 5)))
            blocks.append("a" + "".join(chr(code) for code in range(start + 1, start + 0x100, 3)) + "1")
    return (*_TEXTS, *blocks)
